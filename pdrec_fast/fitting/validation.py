"""What validation says about a training besides which epoch is best: whether it is worth anything.

The yardstick is popularity's figure on the same cases. A difference counts where it is more than
chance makes on so few of them: a case's NDCG lies in [0, 1], so its variance is at most its mean,
and the standard error of the difference of two means a and b over n cases is taken as
sqrt((a + b) / n). In the midst of a training it must be two of them. At the end one is enough: the
best of many validations already favours the model. On few cases, or where popularity itself is near
0, there is no warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST = 3  # validations before a training is judged
_FALL = 0.5  # of popularity's figure, or of the best: below it is a training in trouble
_ERRORS_IN_THE_MIDST, _ERRORS_AT_THE_END = 2.0, 1.0  # standard errors


@dataclass(frozen=True)
class Validation:
    """What a validation figure, NDCG@10, is taken on and held against.

    Attributes:
        n_users: cases it is the mean of.
        of_users: cases there are; more than ``n_users`` where a sample is looked at.
        popularity: popularity's figure on the same cases.
        advice: what to do about a training in trouble, e.g. "lower lr".
    """

    n_users: int
    of_users: int
    popularity: float
    advice: str

    def trouble(self, figures: Sequence[float]) -> dict[str, str]:
        """What is wrong in the midst of a training, by kind: a sentence with advice.

        ``"chance"``: after three validations or more the best is below half of popularity's figure,
        and the latest is no longer the best (a slow start that still rises is not told).
        ``"fell"``: the latest is below half of the best.

        Args:
            figures: of all validations, in order.
        """
        found = {}
        best, last = max(figures), figures[-1]
        rising = figures.index(best) == len(figures) - 1
        if len(figures) >= _FIRST and not rising and self._far_below(best, self.popularity):
            found["chance"] = (
                f"after {len(figures)} validations the best figure, {best:.4f}, is below half of "
                f"popularity's {self.popularity:.4f}: {self.advice}"
            )
        if self._far_below(last, best):
            found["fell"] = f"the figure fell from {best:.4f} to {last:.4f}: {self.advice}"
        return found

    def verdict(self, figures: Sequence[float]) -> dict[str, str]:
        """What is wrong with a training that has ended, by kind.

        ``"below"``: its best figure is below popularity's; ``"level"``: it is, but by no more than
        so few cases may show by chance.
        """
        best = max(figures)
        if best >= self.popularity:
            return {}
        text = f"the best figure, {best:.4f}, is below popularity's {self.popularity:.4f}"
        if not self._clearly_below(best, self.popularity, _ERRORS_AT_THE_END):
            return {"level": f"{text}; on {self.n_users:,} users that may be chance"}
        if figures.index(best) == len(figures) - 1:
            return {"below": f"{text}, and still rose: train for more epochs; or {self.advice}"}
        return {"below": f"{text}: {self.advice}"}

    def _far_below(self, figure: float, other: float) -> bool:
        clearly = self._clearly_below(figure, other, _ERRORS_IN_THE_MIDST)
        return figure < _FALL * other and clearly

    def _clearly_below(self, figure: float, other: float, errors: float) -> bool:
        return other - figure > errors * math.sqrt((figure + other) / self.n_users)
