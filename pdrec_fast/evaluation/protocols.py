"""The two evaluation protocols, fixed by a seed and independent of batch sizes.

- ``paper``: the target against 99 items sampled uniformly from those the user never interacted
  with, in training, validation or test.
- ``full``: the target against the whole corpus without the items of the case's history.

Their numbers are not comparable, so results carry the name of their protocol everywhere. Of two
domains (``Interactions.target_items``), candidates are items of the target domain alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Histories, Holdout, Interactions, Split
from pdrec_fast.devices import off_cpu
from pdrec_fast.evaluation.metrics import CUTOFFS, Ranks, rank_counts, summarize
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.profiling import span, unit
from pdrec_fast.ragged import Ragged, indptr_of, row_indices

PAPER_NEGATIVES = 99
PROTOCOLS = {
    "paper": f"1 target vs {PAPER_NEGATIVES} sampled negatives",
    "full": "1 target vs all items not in the history",
}
SPLIT_NAMES = ("valid", "test")
_CASES_PER_BLOCK = 1024  # so that an encoder's own tensors stay small too
_CASES_PER_GPU_BLOCK = 8192
_USERS_PER_BLOCK = 1 << 16

Results = dict[str, dict[str, dict[str, float]]]
AllRanks = dict[str, dict[str, Ranks]]


class Scorer(Protocol):
    """Anything that scores the next item of a history; higher is better.

    A ``DiffRec``, a ``PDRec``, or a recommender of your own: it can be evaluated, and be the source
    of ``Preferences``. One whose scores are a table of users by items is::

        class Table:
            def scores(self, histories, items=None):
                rows = table[torch.from_numpy(histories.users)]
                return rows if items is None else rows.gather(1, items)

    An attribute ``trained_on``, the fingerprint of the training interactions, is compared with
    those that preferences are inferred for.
    """

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Score the corpus, or the given items, for B histories.

        Args:
            histories: B histories.
            items: int64 [B, C] item indices on the CPU, or None for all N items.

        Returns:
            float [B, C], or [B, N] in the order of the item indices, on any device; never NaN.
        """
        ...


class Evaluator:
    """Ranks the targets of one split under either protocol, any number of times.

    The negatives of a split are drawn at its first use and kept, so that every epoch and every
    model is judged on the same candidates.
    """

    def __init__(self, split: Split, *, seed: int = 0, block_size: int | None = None) -> None:
        """
        Args:
            split: the data and their held-out cases.
            seed: non-negative; with the split's name it fixes the negatives.
            block_size: cases scored at once; None takes as many as make 16 MiB of scores, which
                stay in a CPU's cache, or 512 MiB where the scorer's ``device`` is a GPU. It bounds
                the memory and does not change the candidates.
        """
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size={block_size} must be at least 1")
        self.split = split
        self.seed = seed
        self.block_size = block_size
        self._negatives: dict[str, npt.NDArray[np.int32]] = {}

    def ranks(self, scorer: Scorer, protocol: str = "paper", on: str = "valid") -> Ranks:
        """Ranks of the targets, one case per evaluated user in the order of the holdout.

        Raises:
            ValueError: no such protocol or split, fewer than 99 unobserved items for a user
                (``paper``), or scores of a wrong shape or with NaN.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol={protocol!r}; choose one of {list(PROTOCOLS)}")
        holdout, blocks = self._holdout(on), self.block_size
        n_users = len(holdout)
        data = self.split.data
        n_candidates = PAPER_NEGATIVES + 1 if protocol == "paper" else data.n_targets
        with unit("evaluation", users=n_users, items=n_users * n_candidates):
            if protocol == "full":
                return rank_in_corpus(scorer, holdout, data.target_items, block_size=blocks)
            return rank_among(scorer, holdout, self.negatives(on), block_size=blocks)

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

    def negatives(self, on: str) -> npt.NDArray[np.int32]:
        """int32 [n, 99]: the sampled negatives of the cases of ``"valid"`` or ``"test"``."""
        if on not in self._negatives:
            self._negatives[on] = sample_negatives(
                self._holdout(on), self.split.data, seed=self.seed, name=on
            )
        return self._negatives[on]

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
) -> Results:
    """All metrics of ``scorer``: protocol -> split name -> metric name -> value.

    Arguments are those of ``Evaluator`` and ``summarize``, which also say what is refused.
    """
    evaluator = Evaluator(split, seed=seed, block_size=block_size)
    return summarize_all(evaluator.all_ranks(scorer, protocols, on), ks)


def summarize_all(ranks: AllRanks, ks: Iterable[int] = CUTOFFS) -> Results:
    """``summarize`` of what ``Evaluator.all_ranks`` returned."""
    ks = list(ks)
    return {
        protocol: {name: summarize(cases, ks) for name, cases in by_split.items()}
        for protocol, by_split in ranks.items()
    }


def sample_negatives(
    holdout: Holdout,
    data: Interactions,
    *,
    seed: int,
    name: str,
    n_negatives: int = PAPER_NEGATIVES,
) -> npt.NDArray[np.int32]:
    """Draw items without replacement, uniform over those a user never interacted with in ``data``
    (of two domains: over those of the target domain).

    A user's negatives depend on the seed, the split's name, the user's index and ``data``'s items
    of that user; not on which other users are evaluated.

    Args:
        holdout: n cases whose targets are in ``data``.
        data: all interactions: training, validation and test.
        seed: non-negative.
        name: the split's name.
        n_negatives: items to draw for every case.

    Returns:
        int32 [n, n_negatives], the order within a row being of no meaning.

    Raises:
        ValueError: a user has fewer than ``n_negatives`` unobserved items, or a target is not
            among the user's items in ``data``.
    """
    users = np.asarray(holdout.histories.users)
    observed = data.unique_items()
    _check_targets_observed(holdout, data, observed.row_indices * data.n_items + observed.values)
    observed = _among_targets(data, observed)
    indptr, items, user_of_item = observed.indptr, observed.values, observed.row_indices

    available = (data.n_targets - np.diff(indptr))[users]
    if len(users) and available.min() < n_negatives:
        user = users[available.argmin()]
        raise ValueError(
            f"cannot sample {n_negatives} negatives: the corpus has {data.n_targets} items and "
            f"user {data.user_ids[user]} has not interacted with only {available.min()} of them; "
            "use the 'full' protocol"
        )
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(name.encode()))
    ordinals = _distinct_below(available, _words_of(users, data.n_users, n_negatives, sequence))

    # The q-th unobserved item of a row is q plus the observed items before it, and those are the
    # ones with items[i] - i <= q, i being their position in the row.
    stride = data.n_targets + 1
    unobserved_before = items - (np.arange(len(items)) - indptr[user_of_item])
    position = np.searchsorted(
        user_of_item * stride + unobserved_before, users[:, None] * stride + ordinals, side="right"
    )
    drawn = ordinals + position - indptr[users, None]
    if data.target_items is not None:
        drawn = np.flatnonzero(data.target_items)[drawn]
    return drawn.astype(np.int32)


def available_negatives(data: Interactions) -> npt.NDArray[np.int64]:
    """int64 [n_users]: how many items ``sample_negatives`` can choose from."""
    return data.n_targets - _among_targets(data, data.unique_items()).lengths


def rank_among(
    scorer: Scorer,
    holdout: Holdout,
    negatives: npt.NDArray[np.int32],
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank each target among its own row of ``negatives`` [n, C]; memory block_size x C."""
    parts = []
    for block in _blocks(scorer, len(holdout), block_size, negatives.shape[1] + 1):
        items = np.column_stack([holdout.targets[block], negatives[block]])
        scores = checked_scores(
            scorer, holdout.histories[block], torch.from_numpy(items.astype(np.int64))
        )
        parts.append(rank_counts(scores[:, 0], scores[:, 1:]))
    return Ranks.concatenate(parts)


def rank_in_corpus(
    scorer: Scorer,
    holdout: Holdout,
    candidates: npt.NDArray[np.bool_] | None = None,
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank each target in the corpus without its history's items; memory block_size x items.

    The target itself is never filtered, even where the history holds it.

    Args:
        candidates: bool [items], those to rank among; None for all.
    """
    kept = None if candidates is None else torch.from_numpy(np.flatnonzero(candidates))
    parts = []
    for block in _blocks(scorer, len(holdout), block_size, holdout.histories.n_items):
        histories = holdout.histories[block]
        scores = checked_scores(scorer, histories)
        targets = torch.from_numpy(holdout.targets[block].astype(np.int64)).to(scores.device)
        target_scores = scores.gather(1, targets[:, None])[:, 0]
        excluded = _excluded(histories, holdout.targets[block], candidates)
        if kept is not None:
            scores = scores.index_select(1, kept.to(scores.device))
        rows, columns = excluded.to(scores.device)
        parts.append(rank_counts(target_scores, scores, (rows, columns)))
    return Ranks.concatenate(parts)


def _excluded(
    histories: Histories,
    targets: npt.NDArray[np.int32],
    candidates: npt.NDArray[np.bool_] | None,
) -> torch.Tensor:
    """int64 [2, n]: rows, and columns of the candidates' scores, of every history's items and
    target, each pair once."""
    indptr, items, _ = histories.packed()
    rows = np.concatenate([row_indices(indptr), np.arange(len(histories))])
    keys = np.unique(rows * histories.n_items + np.concatenate([items, targets]))
    rows, columns = np.divmod(keys, histories.n_items)
    if candidates is not None:
        inside = candidates[columns]
        rows, columns = rows[inside], _places(candidates)[columns[inside]]
    return torch.from_numpy(np.stack([rows, columns]))


def _among_targets(data: Interactions, items: Ragged) -> Ragged:
    """Rows of items in a corpus of ``data.target_items`` alone."""
    if data.target_items is None:
        return items
    inside = data.target_items[items.values]
    places = _places(data.target_items)[items.values[inside]]
    return Ragged(places, indptr_of(inside)[items.indptr])


def _places(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """int64 [items], each chosen item's place among the chosen."""
    return np.cumsum(chosen) - 1


def format_results(
    results: Mapping[str, Results],
    metrics: Sequence[str] = ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr", "auc"),
) -> str:
    """Text tables of several models' results, one for each protocol and split.

    Args:
        results: model name -> what ``evaluate`` returned.
        metrics: the columns.

    Returns:
        Tables of one row per model; the protocol stands in the title and at the head of each row.
    """
    tables = []
    settings = [(p, name) for result in results.values() for p in result for name in result[p]]
    for protocol, name in dict.fromkeys(settings):
        rows = [["protocol", "model", *metrics]]
        for model, result in results.items():
            values = result.get(protocol, {}).get(name)
            if values is not None:
                rows.append([protocol, model, *(f"{values[metric]:.4f}" for metric in metrics)])
        title = f"protocol: {protocol} ({PROTOCOLS[protocol]}), split: {name}"
        tables.append("\n".join([title, *_aligned(rows)]))
    return "\n\n".join(tables)


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _blocks(
    scorer: Scorer, n_cases: int, block_size: int | None, n_candidates: int
) -> Iterator[slice]:
    if n_cases == 0:
        raise ValueError("the holdout has no cases to rank")
    if block_size is None:
        on_gpu = off_cpu(scorer)
        most = _CASES_PER_GPU_BLOCK if on_gpu else _CASES_PER_BLOCK
        block_size = min(rows_per_block(n_candidates, on_gpu=on_gpu), most)
    for start in range(0, n_cases, block_size):
        yield slice(start, min(start + block_size, n_cases))


@torch.no_grad()
def checked_scores(
    scorer: Scorer, histories: Histories, items: torch.Tensor | None = None
) -> torch.Tensor:
    """``scorer.scores(histories, items)``, refused when it is no tensor of the promised shape.

    Raises:
        TypeError: the scorer has no ``scores``, or they are no tensor.
        ValueError: they have another shape.
    """
    name = type(scorer).__name__
    if not callable(getattr(scorer, "scores", None)):
        raise TypeError(f"{name} cannot score: give it a method scores(histories, items=None)")
    with span("scores"):
        scores = scorer.scores(histories) if items is None else scorer.scores(histories, items)
    if not isinstance(scores, torch.Tensor):
        raise TypeError(
            f"{name}.scores returned a {type(scores).__name__}, not a torch.Tensor; for an array "
            "return torch.from_numpy(...)"
        )
    wanted = (len(histories), histories.n_items) if items is None else tuple(items.shape)
    if tuple(scores.shape) != wanted:
        raise ValueError(
            f"{name}.scores returned shape {tuple(scores.shape)}, not {wanted}: was it fitted on "
            "other data?"
        )
    return scores


def _check_targets_observed(
    holdout: Holdout, data: Interactions, observed: npt.NDArray[np.int64]
) -> None:
    users = np.asarray(holdout.histories.users)
    wanted = users * data.n_items + holdout.targets
    found = observed[np.searchsorted(observed, wanted).clip(max=len(observed) - 1)] == wanted
    if not found.all():
        case = int(np.flatnonzero(~found)[0])
        raise ValueError(
            f"user {data.user_ids[users[case]]} never interacted with the target "
            f"{data.item_ids[holdout.targets[case]]} in data; pass the data that were split"
        )


def _words_of(
    users: npt.NDArray[np.int64], n_users: int, n_words: int, sequence: np.random.SeedSequence
) -> npt.NDArray[np.uint64]:
    """Each user's own ``n_words`` of one stream over all users, drawn a block of users at a time.

    Raw words, as NumPy fixes the bit stream across versions but not that of its samplers.
    """
    generator = np.random.PCG64(sequence)
    words = np.empty((len(users), n_words), dtype=np.uint64)
    for start in range(0, n_users, _USERS_PER_BLOCK):
        block = generator.random_raw((min(_USERS_PER_BLOCK, n_users - start), n_words))
        inside = (users >= start) & (users < start + len(block))
        words[inside] = block[users[inside] - start]
    return words


def _distinct_below(
    bounds: npt.NDArray[np.int64], words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Floyd's sampling: row r of the result is a uniform set of ``words.shape[1]`` numbers below
    ``bounds[r]`` (at least as many), from the upper 32 bits of the words."""
    n_draws = words.shape[1]
    chosen = np.empty((n_draws, len(bounds)), dtype=np.int64)
    fractions = (words >> np.uint64(32)).T
    for draw in range(n_draws):
        last = bounds - n_draws + draw
        number = (fractions[draw] * (last + 1).astype(np.uint64) >> np.uint64(32)).astype(np.int64)
        repeated = (chosen[:draw] == number).any(axis=0)
        chosen[draw] = np.where(repeated, last, number)
    return chosen.T
