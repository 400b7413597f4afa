"""Where test items rank, known and cold ones apart, over all seeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from pdrec_fast.studies.load import DataSet, Studies


@dataclass(frozen=True)
class RankGroup:
    """Known or cold test items of a data set.

    Attributes:
        known: whether they occur in training.
        bins: (first, last) rank of each; the last ends with the corpus, where its size is known.
        cases: of each bin, over all seeds.
        total: cases of both groups.
        corpus: number of items that are ranked; None where it is not known.
    """

    known: bool
    bins: list[tuple[int, int]]
    cases: list[int]
    total: int
    corpus: int | None

    @property
    def share(self) -> float:
        """Of all test cases, in percent."""
        return 100 * sum(self.cases) / self.total

    @property
    def name(self) -> str:
        kind = "items that occur in training" if self.known else "cold items"
        return f"{kind} ({self.share:.1f} % of the test)"

    @property
    def shares(self) -> list[float]:
        """Of the group's cases, in percent, for each bin."""
        return [100 * count / max(sum(self.cases), 1) for count in self.cases]

    @property
    def chance(self) -> list[float] | None:
        """The same if the order of the corpus were random; None where its size is not known."""
        if self.corpus is None:
            return None
        return [100 * (last - first + 1) / self.corpus for first, last in self.bins]

    @property
    def middle(self) -> tuple[int, int]:
        """The bin that holds the median case; of a group with cases."""
        half = sum(self.cases) / 2
        return next(
            place
            for place, reached in zip(self.bins, accumulate(self.cases), strict=True)
            if reached >= half
        )


def known_and_cold(studies: Studies, data_set: DataSet) -> list[RankGroup]:
    """Both groups over the same bins; none without cases."""
    counts: Counter[tuple[int, tuple[int, int]]] = Counter()
    for row in studies.ranks:
        if row.data_set == data_set:
            counts[row.known, (row.rank_from, row.rank_to)] += row.cases
    total = counts.total()
    if not total:
        return []
    bins = sorted({place for _, place in counts})
    cases = [[counts[known, place] for place in bins] for known in (1, 0)]
    first, last = bins[-1]
    # Of two domains only the target's items are ranked, and study.json counts all.
    corpus = None if "-to-" in data_set.data else studies.items(data_set)
    if corpus is not None and first <= corpus <= last:
        bins[-1] = (first, corpus)
    else:
        corpus = None
    return [
        RankGroup(known, bins, of_group, total, corpus)
        for known, of_group in zip((True, False), cases, strict=True)
    ]
