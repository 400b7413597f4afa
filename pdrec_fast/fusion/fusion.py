"""Scorers added to the logits of a model, each by its share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import Scorer, checked_scores, prepared

Transform = Literal["raw", "log"]
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Share:
    """What a scorer adds to the logits: ``weight * transform(scores)``.

    Attributes:
        weight: 0 adds nothing, and the scorer is not asked.
        transform: ``"raw"``, or ``"log"``: log(max(score, floor)), which makes of what is like a
            probability, such as the diffusion's x_0, something like a logit.
        floor: above 0, of ``"log"``: scores below it count alike.
    """

    weight: float = 0.0
    transform: Transform = "raw"
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if self.transform not in get_args(Transform):
            raise ValueError(f"unknown transform={self.transform!r}; choose 'raw' or 'log'")
        for name in ("weight", "floor"):  # as JSON has them
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor must be positive and finite, got {self.floor}")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight must be finite, got {self.weight}")

    def of(self, scores: torch.Tensor) -> torch.Tensor:
        """``transform(scores)``, without the weight; a new tensor where the transform is no
        ``"raw"``."""
        return scores if self.transform == "raw" else scores.clamp_min(self.floor).log_()


def check_guide_name(name: str) -> None:
    """A guide's name is a part of file names. Raises ValueError where it cannot be."""
    if not (isinstance(name, str) and name.isidentifier() and len(name) <= _LONGEST_NAME):
        raise ValueError(
            f"guide {name!r}: a name has letters, digits and underscores alone, begins with no "
            f"digit and has at most {_LONGEST_NAME} of them"
        )


def check_trained_on(scorer: object, train: Interactions, who: str) -> None:
    """Raises DataError where a scorer says that it was fitted on other interactions: its scores
    could hold the answers of the validation."""
    trained_on = getattr(scorer, "trained_on", None)  # a scorer of the user's own may say
    if trained_on not in (None, train.fingerprint()):
        raise DataError(
            f"{who} was fitted on other interactions than the split's training interactions: its "
            "scores could hold the answers of the validation"
        )


def with_guides(scorer: object) -> Iterator[object]:
    """A scorer, and all that it is guided by."""
    yield scorer
    fusion = getattr(scorer, "fusion", None)
    if isinstance(fusion, Fusion):
        for guide in fusion.guides.values():
            yield from with_guides(guide)


class Fusion:
    """Shares of several scorers in the logits of a model that is none of them.

    Args:
        guides: name (letters, digits and underscores) -> scorer.
        shares: name -> what it adds; a scorer without one adds nothing, and one that adds nothing
            need not be there.

    Raises:
        ValueError: a share of an unknown guide, or a name that is none.
    """

    def __init__(self, guides: Mapping[str, Scorer], shares: Mapping[str, Share]) -> None:
        for name in (*guides, *shares):
            check_guide_name(name)
        unknown = sorted(n for n, share in shares.items() if share.weight and n not in guides)
        if unknown:
            raise ValueError(f"shares of unknown guides {unknown}; there are {sorted(guides)}")
        self.guides, self.shares = dict(guides), dict(shares)

    @property
    def used(self) -> dict[str, Share]:
        """The shares that are not 0."""
        return {name: share for name, share in self.shares.items() if share.weight}

    def prepared(self) -> Fusion:
        """This fusion, for many blocks of histories; see ``Scorer``."""
        ready = copy(self)
        ready.guides = {
            name: prepared(guide) if name in self.used else guide
            for name, guide in self.guides.items()
        }
        return ready

    def add_to(
        self, logits: torch.Tensor, histories: Histories, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``logits`` [B, N], or [B, C] of ``items``, with every scorer's share added in place."""
        for name, share in self.used.items():
            scores = checked_scores(self.guides[name], histories, items)
            transformed = share.of(scores.to(logits.device, logits.dtype))
            logits.add_(transformed, alpha=share.weight)
        return logits
