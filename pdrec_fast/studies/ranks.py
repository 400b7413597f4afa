"""Where test items rank, known and cold ones apart, over all seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdrec_fast.studies.load import Studies
from pdrec_fast.studies.variants import DataSet

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RankGroup:
    """Known or cold test items of a data set.

    Attributes:
        known: whether they occur in training.
        bins: columns ``first`` and ``last`` (rank), ``cases`` (over all seeds) and, where the
            size of the corpus is known, ``chance`` (percent of the cases in a random order).
        share: percent of all test cases.
    """

    known: bool
    bins: pd.DataFrame
    share: float

    @property
    def kind(self) -> str:
        return "items that occur in training" if self.known else "cold items"

    @property
    def name(self) -> str:
        return f"{self.kind} ({self.share:.1f} % of the test)"

    @property
    def percent(self) -> pd.Series:
        """The group's cases in each bin, in percent."""
        return 100 * self.bins["cases"] / max(self.bins["cases"].sum(), 1)

    @property
    def median(self) -> tuple[int, int] | None:
        """First and last rank of the bin that holds the median case; None without cases."""
        cases = self.bins["cases"]
        if not cases.sum():
            return None
        place = int(np.argmax(cases.cumsum() >= cases.sum() / 2))
        return self.bins["first"].iloc[place], self.bins["last"].iloc[place]


def known_and_cold(studies: Studies, data_set: DataSet) -> list[RankGroup]:
    """Both groups over the same bins; none without cases."""
    rows = studies.rows("ranks", data_set)
    total = rows["cases"].sum()
    if not total:
        return []
    bins = rows.pivot_table("cases", ["rank_from", "rank_to"], "known", "sum", fill_value=0)
    counts = bins.reindex(columns=[1, 0], fill_value=0).reset_index(names=["first", "last"])
    # Of two domains only the target's items are ranked, and study.json counts all.
    corpus = None if "-to-" in data_set.data else studies.items(data_set)
    if corpus is not None and counts["first"].iloc[-1] <= corpus <= counts["last"].iloc[-1]:
        counts.loc[counts.index[-1], "last"] = corpus
        counts["chance"] = 100 * (counts["last"] - counts["first"] + 1) / corpus
    shares = 100 * counts.sum() / total
    return [
        RankGroup(known == 1, counts.rename(columns={known: "cases"}), shares[known])
        for known in (1, 0)
    ]
