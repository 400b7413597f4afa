"""Scorers added to the logits of a model, each by its share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import Scorer, checked_scores, prepared
from pdrec_fast.ragged import row_indices

Transform = Literal["raw", "log"]
Levels = tuple[tuple[float, float], ...]
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


def foresees_repeats(guide: object) -> bool:
    """Whether a scorer's word on an item that the history has counts for what comes next."""
    return bool(getattr(guide, "foresees_repeats", True))


def with_guides(scorer: object) -> Iterator[object]:
    """A scorer, and all that it is guided by."""
    yield scorer
    fusion = getattr(scorer, "fusion", None)
    if isinstance(fusion, Fusion):
        for guide in fusion.guides.values():
            yield from with_guides(guide)


class Fusion:
    """Shares of several scorers in the logits of a model that is none of them.

    Some guides foresee what is new to a user alone: no item is its own evidence for
    ``LinearDenoiser`` and ``ItemKNN``, and what they say of the items of a training history is
    their records' word, which none has at the next step. They say so by an attribute
    ``foresees_repeats = False``. With ``levels``, an item of the history stays where the model and
    the other guides put it.

    Args:
        guides: name (letters, digits and underscores) -> scorer.
        shares: name -> what it adds; a scorer without one adds nothing, and one that adds nothing
            need not be there.
        levels: two or more pairs of a logit without the shares of guides that foresee no repeats
            and one with all shares, which stand at the same rank, from the best one down: an item
            of the history gets the second for the first, linearly between two pairs.
            ``choose_shares`` finds them. Without any, the shares are added to all items alike.

    Raises:
        ValueError: a share of an unknown guide, a name that is none, or levels that are none.
    """

    def __init__(
        self,
        guides: Mapping[str, Scorer],
        shares: Mapping[str, Share],
        levels: Iterable[tuple[float, float]] = (),
    ) -> None:
        for name in (*guides, *shares):
            check_guide_name(name)
        unknown = sorted(n for n, share in shares.items() if share.weight and n not in guides)
        if unknown:
            raise ValueError(f"shares of unknown guides {unknown}; there are {sorted(guides)}")
        self.guides, self.shares, self.levels = dict(guides), dict(shares), _checked(levels)
        self._blind = {name for name, guide in guides.items() if not foresees_repeats(guide)}

    @property
    def used(self) -> dict[str, Share]:
        """The shares that are not 0."""
        return {name: share for name, share in self.shares.items() if share.weight}

    @property
    def foreseeing(self) -> dict[str, Share]:
        """The shares that are not 0, of guides that foresee repeats too."""
        return {name: share for name, share in self.used.items() if name not in self._blind}

    @property
    def blind(self) -> dict[str, Share]:
        """The shares that are not 0, of guides that foresee no repeats."""
        return {name: share for name, share in self.used.items() if name in self._blind}

    @property
    def held_back(self) -> dict[str, Share]:
        """The shares that ``levels`` keep from the items of the history: the blind ones."""
        return self.blind if self.levels else {}

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
        self._add(self.foreseeing, logits, histories, items)
        if not self.held_back:
            return self._add(self.blind, logits, histories, items)
        places = of_histories(histories, items, logits.device)
        kept = self.of_history(logits[places])
        self._add(self.blind, logits, histories, items)
        logits[places] = kept
        return logits

    def _add(
        self,
        shares: Mapping[str, Share],
        logits: torch.Tensor,
        histories: Histories,
        items: torch.Tensor | None,
    ) -> torch.Tensor:
        for name, share in shares.items():
            scores = checked_scores(self.guides[name], histories, items)
            transformed = share.of(scores.to(logits.device, logits.dtype))
            logits.add_(transformed, alpha=share.weight)
        return logits

    def of_history(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits of items of the history that have ``logits`` without the blind shares: linear
        between two levels, and as far beyond the ends as they are."""
        own, fused = logits.new_tensor(self.levels[::-1]).unbind(1)
        at = (logits.unsqueeze(-1) > own).sum(-1).clamp(1, len(own) - 1)
        inside = logits.clamp(own[0], own[-1])
        width = (own[at] - own[at - 1]).clamp_min(torch.finfo(logits.dtype).tiny)
        place = ((inside - own[at - 1]) / width).clamp(0.0, 1.0)
        return torch.lerp(fused[at - 1], fused[at], place) + (logits - inside)


def of_histories(
    histories: Histories, items: torch.Tensor | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the scores [B, N], or [B, C] of ``items``, that are of an item of the
    row's history; some of them more than once."""
    indptr, seen, _ = histories.packed()
    rows, columns = row_indices(indptr), seen.astype(np.int64)
    if items is not None:
        known = rows * histories.n_items + columns
        wanted = np.arange(len(items))[:, None] * histories.n_items + items.cpu().numpy()
        rows, columns = np.nonzero(np.isin(wanted, known))
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _checked(levels: Iterable[tuple[float, float]]) -> Levels:
    found = tuple((float(own), float(fused)) for own, fused in levels)
    if len(found) == 1:
        raise ValueError("levels must be two or more pairs, or none")
    if any(not math.isfinite(value) for pair in found for value in pair):
        raise ValueError("levels must be finite")
    if any(after > before for (before, _), (after, _) in pairwise(found)):
        raise ValueError("the model's logits of levels must not rise from one to the next")
    return found
