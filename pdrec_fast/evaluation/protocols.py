"""The two evaluation protocols, fixed by a seed and independent of batch sizes.

- ``paper``: the target against 99 items sampled uniformly from those the user never interacted
  with, in training, validation or test. A user who left fewer is no case of it.
- ``full``: the target against the whole corpus without the items of the case's history.

Their numbers are not comparable, so results carry the name of their protocol everywhere. Of two
domains (``Interactions.target_items``), candidates are items of the target domain alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt

from pdrec_fast.data import Holdout, Split
from pdrec_fast.data.splits import named_users
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation.metrics import CUTOFFS, Ranks, summarize
from pdrec_fast.evaluation.popularity import Popularity
from pdrec_fast.evaluation.sampling import PAPER_NEGATIVES, can_sample, sample_negatives
from pdrec_fast.evaluation.scoring import Scorer, rank_among, rank_in_corpus
from pdrec_fast.evaluation.sharded import gathered_ranks, rank_by_shards
from pdrec_fast.isolation import own_settings
from pdrec_fast.profiling import unit
from pdrec_fast.ranks import ALONE, Mesh

PROTOCOLS = {
    "paper": f"1 target vs {PAPER_NEGATIVES} sampled negatives",
    "full": "1 target vs all items not in the history",
}
SPLIT_NAMES = ("valid", "test")

Results = dict[str, dict[str, dict[str, float]]]
AllRanks = dict[str, dict[str, Ranks]]


class Evaluator:
    """Ranks the targets of one split under either protocol, any number of times.

    The negatives of a split are drawn at its first use and kept, so that every epoch and every
    model is judged on the same candidates.
    """

    def __init__(
        self,
        split: Split,
        *,
        seed: int = 0,
        block_size: int | None = None,
        mesh: Mesh = ALONE,
    ) -> None:
        """
        Args:
            split: the data and their held-out cases.
            seed: non-negative; with the split's name it fixes the negatives.
            block_size: cases scored at once; None takes as many as make 16 MiB of scores, which
                stay in a CPU's cache, or 512 MiB where the scorer's ``device`` is a GPU. It bounds
                the memory and does not change the candidates.
            mesh: processes that share the cases; every one of them must make the same calls, and
                has the ranks of all cases.
        """
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size={block_size} must be at least 1")
        self.split = split
        self.seed = seed
        self.block_size = block_size
        self.mesh = mesh
        self._negatives: dict[str, npt.NDArray[np.int32]] = {}
        self._sampled: dict[str, Holdout] = {}  # the cases of ``paper``

    @own_settings()
    def ranks(self, scorer: Scorer, protocol: str = "paper", on: str = "valid") -> Ranks:
        """Ranks of the targets, one case per evaluated user in the order of the holdout.

        Raises:
            ValueError: no such protocol or split, no user with 99 unobserved items (``paper``;
                where some have fewer, these are left out with a warning), or scores of a wrong
                shape.
            NonFiniteScoresError: scores are NaN; names the user. Infinite ones rank first or last.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol={protocol!r}; choose one of {list(PROTOCOLS)}")
        holdout, blocks = self.cases(on, protocol), self.block_size
        n_users = len(holdout)
        data = self.split.data
        n_candidates = PAPER_NEGATIVES + 1 if protocol == "paper" else data.n_targets
        # Popularity scores nothing: a profile's rates are those of models.
        alike = getattr(scorer, "item_scores", None) is not None
        counts = {"users": n_users, "items": n_users * n_candidates}
        with nullcontext() if alike else unit("evaluation", **counts):
            sharded = getattr(scorer, "item_shard", None) is not None
            axis = self.mesh.users if sharded else self.mesh.all
            own = axis.share(len(holdout))
            rank = rank_by_shards if sharded else rank_in_corpus
            ranks = Ranks.nothing()
            try:
                if axis.size == 1 or own.start < own.stop:
                    if protocol == "full":
                        ranks = rank(scorer, holdout[own], data.target_items, block_size=blocks)
                    else:
                        negatives = self.negatives(on)[own]
                        ranks = rank_among(scorer, holdout[own], negatives, block_size=blocks)
            except NonFiniteScoresError as error:
                if error.row is None:
                    raise
                user = data.user_ids[holdout[own].users[error.row]]
                raise NonFiniteScoresError.of_user(scorer, user) from None
            return gathered_ranks(ranks, axis)

    def all_ranks(
        self,
        scorer: Scorer,
        protocols: Iterable[str] = tuple(PROTOCOLS),
        on: Iterable[str] = SPLIT_NAMES,
    ) -> AllRanks:
        """``ranks`` by protocol and split."""
        on = list(on)
        return {
            protocol: {name: self.ranks(scorer, protocol, name) for name in on}
            for protocol in protocols
        }

    def ndcg_at_10(self, scorer: Scorer, protocol: str) -> float:
        """Validation NDCG@10: the figure that models are selected by."""
        return summarize(self.ranks(scorer, protocol), ks=(10,))["ndcg@10"]

    def popularity_ndcg_at_10(self, protocol: str) -> float:
        """``ndcg_at_10`` of popularity in training: what a model must at least be better than."""
        return self.ndcg_at_10(Popularity(self.split.train), protocol)

    def negatives(self, on: str) -> npt.NDArray[np.int32]:
        """int32 [n, 99]: the sampled negatives of the cases that ``paper`` has of ``"valid"`` or
        ``"test"``."""
        if on not in self._negatives:
            self._negatives[on] = sample_negatives(
                self.cases(on, "paper"), self.split.data, seed=self.seed, name=on
            )
        return self._negatives[on]

    def cases(self, on: str, protocol: str) -> Holdout:
        """The cases of ``"valid"`` or ``"test"`` that a protocol ranks."""
        holdout = self._holdout(on)
        if protocol != "paper":
            return holdout
        if on not in self._sampled:
            self._sampled[on] = self._with_enough(holdout, on)
        return self._sampled[on]

    def _with_enough(self, holdout: Holdout, on: str) -> Holdout:
        """The cases that 99 negatives can be sampled for; all where there are none."""
        data = self.split.data
        enough = can_sample(data, holdout.users)
        if enough.all() or not enough.any():
            return holdout
        without = named_users(data.user_ids[holdout.users[~enough]].tolist())
        warnings.warn(
            f"'paper' leaves out {without} of the {on} part, who left fewer than "
            f"{PAPER_NEGATIVES} items to sample; 'full' ranks them",
            stacklevel=2,
        )
        return holdout[enough]

    def _holdout(self, on: str) -> Holdout:
        if on not in SPLIT_NAMES:
            raise ValueError(f"unknown split on={on!r}; choose one of {list(SPLIT_NAMES)}")
        holdout: Holdout = getattr(self.split, on)
        return holdout


def evaluate(
    scorer: Scorer,
    split: Split,
    *,
    on: Iterable[str] = SPLIT_NAMES,
    protocols: Iterable[str] = tuple(PROTOCOLS),
    seed: int = 0,
    block_size: int | None = None,
    ks: Iterable[int] = CUTOFFS,
    mesh: Mesh = ALONE,
) -> Results:
    """All metrics of ``scorer``: protocol -> split name -> metric name -> value.

    Arguments are those of ``Evaluator`` and ``summarize``, which also say what is refused.
    """
    evaluator = Evaluator(split, seed=seed, block_size=block_size, mesh=mesh)
    return summarize_all(evaluator.all_ranks(scorer, protocols, on), ks)


def summarize_all(ranks: AllRanks, ks: Iterable[int] = CUTOFFS) -> Results:
    """``summarize`` of what ``Evaluator.all_ranks`` returned."""
    ks = list(ks)
    return {
        protocol: {name: summarize(cases, ks) for name, cases in by_split.items()}
        for protocol, by_split in ranks.items()
    }
