"""What a training leaves of every epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """Loss and time of every epoch, and the validation figure where it was taken.

    Attributes:
        validation_users, of_users: cases that the figure is the mean of, and how many there are;
            None where none was taken, and in histories of version 0.1.0.
        popularity: popularity's figure on the same cases, or None as above.
        remarks: what was found wrong, by kind (see ``Validation``), each told once.
    """

    losses: list[float] = field(default_factory=list)
    validations: dict[str, float] = field(default_factory=dict)  # JSON keys are strings
    best_epoch: int = -1
    best_value: float = -1.0  # below every metric, and plain JSON
    seconds: float = 0.0  # spent in epochs, over all runs that continued each other
    elapsed: list[float] = field(default_factory=list)  # ``seconds`` at the end of every epoch
    finished: bool = False
    validation_users: int | None = None
    of_users: int | None = None
    popularity: float | None = None
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        return len(self.losses)
