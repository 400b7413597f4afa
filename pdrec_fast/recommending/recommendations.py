"""What was recommended, and as what kind of table it can be had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np

from pdrec_fast.errors import MissingExtraError

FrameKind = Literal["pandas", "polars", "arrow"]
_MODULES = {"pandas": "pandas", "polars": "polars", "arrow": "pyarrow"}


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Items of B people, best first. ``items, scores = recommendations`` takes it apart.

    Attributes:
        users: [B] raw ids of the people asked for; their numbers from 0 where only histories were
            given.
        items: [B, k] raw ids, objects; None where a row has fewer than k.
        scores: float32 [B, k], -inf where there is no item.
        fallback: bool [B], rows of people of whom nothing is known, filled with popular items
            whose scores are numbers of records.
    """

    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    fallback: np.ndarray
    item_type: Any = object  # dtype of the ids

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.items, self.scores))

    def __getitem__(self, place: int) -> np.ndarray:
        """``items`` at 0, ``scores`` at 1, as of the pair that version 0.1.0 returned."""
        return (self.items, self.scores)[place]

    def __repr__(self) -> str:
        marked = int(self.fallback.sum())
        more = f", {marked} rows of popular items" if marked else ""
        return f"Recommendations({len(self.users)} users, k={self.items.shape[1]}{more})"

    def columns(self) -> dict[str, np.ndarray]:
        """One entry for each recommended item: ``user``, ``item``, ``score`` (float32), ``rank``
        (int32, from 1) and ``fallback`` (bool)."""
        rows, places = np.nonzero(self.scores > -np.inf)
        return {
            "user": self.users[rows],
            "item": self.items[rows, places].astype(self.item_type),
            "score": self.scores[rows, places],
            "rank": (places + 1).astype(np.int32),
            "fallback": self.fallback[rows],
        }

    def to_frame(self, kind: FrameKind = "pandas") -> Any:
        """The ``columns`` as a frame: of pandas or polars, or a pyarrow table.

        Raises:
            ValueError: another kind.
            MissingExtraError: that package is not installed.
        """
        if kind not in get_args(FrameKind):
            raise ValueError(f"unknown kind={kind!r}; choose one of {get_args(FrameKind)}")
        try:
            module = import_module(_MODULES[kind])
        except ImportError as error:
            raise MissingExtraError(
                f"to_frame({kind!r}) needs {_MODULES[kind]}; pip install pdrec_fast[frames]"
            ) from error
        columns = self.columns()
        if kind == "arrow":
            return module.table(
                {
                    name: module.array(values, module.string() if values.dtype == object else None)
                    for name, values in columns.items()
                }
            )
        if kind == "polars":
            text = {name: module.String for name, v in columns.items() if v.dtype == object}
            return module.DataFrame(columns, schema_overrides=text)
        return module.DataFrame(columns)
