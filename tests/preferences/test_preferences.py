import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pdrec_fast.data import Histories, Interactions, leave_one_out, synthetic
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.errors import CheckpointError, NonFiniteScoresError
from pdrec_fast.preferences import Preferences, inference
from pdrec_fast.preferences.reweighting import hbr_weights, ranks_within
from pdrec_fast.training import PDRecConfig
from tests.rows import interactions_of

N_ITEMS = 97
ARRAYS = [f.name for f in dataclasses.fields(Preferences) if f.type == "np.ndarray"]


class TableScorer:
    """Scores from a table, remembering the shapes asked for."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.block_shapes: list[tuple[int, ...]] = []

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        assert items is None
        scores = self.table[torch.from_numpy(histories.users)]
        self.block_shapes.append(tuple(scores.shape))
        return scores


@pytest.fixture(scope="module")
def train() -> Interactions:
    """Users of several lengths, with repeats, one without records and one that saw most items."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(N_ITEMS, size=size).tolist() for size in (1, 2, 5, 9, 30, 14, 3)]
    rows.insert(2, [])
    rows.append(rng.permutation(N_ITEMS)[: N_ITEMS - 4].tolist())
    rows.append([7, 8, 7, 7])
    return interactions_of(rows, N_ITEMS)


def tied_scorer(n_users: int) -> TableScorer:
    """Few distinct scores, so that ties decide most orders."""
    generator = torch.Generator().manual_seed(1)
    return TableScorer(torch.randint(-3, 4, (n_users, N_ITEMS), generator=generator).float() / 2)


def unobserved_by_preference(train: Interactions, user: int, scores: torch.Tensor) -> np.ndarray:
    """K_u of equation 3: a stable sort of what the user has not interacted with."""
    seen = set(train.items[train.indptr[user] : train.indptr[user + 1]].tolist())
    items = np.array([item for item in range(train.n_items) if item not in seen])
    return items[np.argsort(-scores.numpy()[items], kind="stable")]


@pytest.mark.parametrize("omega_m", [0.0, 0.5, 0.8, 0.99])
def test_infer_matches_a_full_sort_of_every_user(train: Interactions, omega_m: float) -> None:
    scorer = tied_scorer(train.n_users)
    found = Preferences.infer(
        scorer, train, top_m=6, omega_m=omega_m, n_draws=64, block_size=4, progress=False
    )
    assert (found.n_items, found.n_users, found.omega_m) == (N_ITEMS, train.n_users, omega_m)
    assert found.data == train.fingerprint()
    ranks = ranks_within(train.indptr, found.observed_scores, train.items)
    for user in range(train.n_users):
        scores = scorer.table[user]
        order = unobserved_by_preference(train, user, scores)
        expected = order[:6].tolist() + [-1] * (6 - len(order[:6]))
        assert found.top_items[user].tolist() == expected
        first = int(np.floor(omega_m * len(order)))
        assert found.threshold_items[user] == order[first]
        assert found.threshold_scores[user] == scores[order[first]]
        assert set(found.negatives[user].tolist()) <= set(order[first:].tolist())
        records = slice(train.indptr[user], train.indptr[user + 1])
        own = scores.numpy()[train.items[records]]
        np.testing.assert_array_equal(found.observed_scores[records], own)
        by_rank = np.lexsort((np.arange(len(own)), train.items[records], -own))
        assert ranks[records][by_rank].tolist() == list(range(1, len(own) + 1))


def test_shapes_and_dtypes(train: Interactions) -> None:
    found = Preferences.infer(
        tied_scorer(train.n_users), train, top_m=3, n_draws=11, progress=False
    )
    shapes = {name: getattr(found, name).shape for name in ARRAYS}
    users, records = train.n_users, train.n_records
    assert shapes == {
        "indptr": (users + 1,),
        "observed_scores": (records,),
        "top_items": (users, 3),
        "threshold_scores": (users,),
        "threshold_items": (users,),
        "negatives": (users, 11),
    }
    for name in ("top_items", "threshold_items", "negatives"):
        assert getattr(found, name).dtype == np.int32
    for name in ("observed_scores", "threshold_scores"):
        assert getattr(found, name).dtype == np.float32
    assert repr(found) == f"Preferences({users} users, {train.n_items} items, omega_m=0.5)"


@pytest.mark.parametrize("omega_m", [0.5, 0.95, 0.99])
def test_negatives_are_uniform_over_the_pool(omega_m: float) -> None:
    # 0.99 leaves fewer than a 64th of the items, which are drawn another way.
    n_items, n_draws = 701, 40_000
    train = interactions_of([[1, 5, 9], [], list(range(0, 300, 3))], n_items)
    table = torch.randn(3, n_items, generator=torch.Generator().manual_seed(2))
    found = Preferences.infer(
        TableScorer(table), train, omega_m=omega_m, n_draws=n_draws, seed=3, progress=False
    )
    for user in range(3):
        order = unobserved_by_preference(train, user, table[user])
        pool = order[int(np.floor(omega_m * len(order))) :]
        counts = np.bincount(found.negatives[user], minlength=n_items)
        assert counts.sum() == counts[pool].sum() == n_draws
        assert stats.chisquare(counts[pool]).pvalue > 1e-3
        pairs = found.negatives[user].reshape(-1, 2) == pool[0]
        both = np.bincount(pairs @ [2, 1], minlength=4).reshape(2, 2)
        assert stats.chi2_contingency(both).pvalue > 1e-3, "successive draws depend on each other"


@pytest.mark.parametrize("block_size", [1, 3, 1000])
def test_block_size_bounds_the_memory_and_changes_nothing(
    train: Interactions, block_size: int
) -> None:
    expected = Preferences.infer(tied_scorer(train.n_users), train, block_size=7, progress=False)
    scorer = tied_scorer(train.n_users)
    found = Preferences.infer(scorer, train, block_size=block_size, progress=False)
    assert max(rows for rows, _ in scorer.block_shapes) <= block_size
    assert sum(rows for rows, _ in scorer.block_shapes) == train.n_users
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_seed_decides_the_draws_and_nothing_else(train: Interactions) -> None:
    first, again, other = (
        Preferences.infer(tied_scorer(train.n_users), train, seed=seed, progress=False)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.negatives, again.negatives)
    assert (first.negatives != other.negatives).mean() > 0.5
    for name in set(ARRAYS) - {"negatives"}:
        np.testing.assert_array_equal(getattr(first, name), getattr(other, name))


def test_users_draw_independently() -> None:
    train = interactions_of([[], []], N_ITEMS)
    table = torch.zeros(2, N_ITEMS)
    found = Preferences.infer(TableScorer(table), train, n_draws=500, progress=False)
    assert (found.negatives[0] == found.negatives[1]).mean() < 0.1


def test_more_candidates_than_items_end_with_minus_one() -> None:
    train = interactions_of([[0, 2], [1]], 4)
    found = Preferences.infer(TableScorer(torch.eye(2, 4)), train, top_m=5, progress=False)
    assert found.top_items.tolist() == [[1, 3, -1, -1, -1], [0, 2, 3, -1, -1]]


@pytest.mark.parametrize("vectors", [False, True])
def test_who_has_seen_everything_prefers_nothing_unseen(
    vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = interactions_of([[0, 2], [1, 0, 3, 2, 0], [3], [2, 3, 1, 0]], 4)
    model = DiffRec(hidden=(3,), epochs=1, precision="fp32").fit(train, progress=False)
    monkeypatch.setattr(inference, "uses_vectors", lambda _: vectors)
    monkeypatch.setattr("pdrec_fast.preferences.preferences.uses_vectors", lambda _: vectors)
    found = Preferences.infer(model, train, top_m=2, n_draws=5, block_size=3, progress=False)
    scores = model.scores(train.histories())[train.record_users, train.items.astype(np.int64)]
    np.testing.assert_allclose(found.observed_scores, scores, rtol=1e-5)
    for user in (1, 3):
        assert found.top_items[user].tolist() == [-1, -1]
        assert found.negatives[user].tolist() == [-1] * 5
        assert (found.threshold_scores[user], found.threshold_items[user]) == (-np.inf, -1)
    assert set(found.top_items[0]) == {1, 3}
    assert np.isin(found.negatives[0], [1, 3]).all()
    assert np.isin(found.negatives[2], [0, 1, 2]).all()


def test_nan_scores_are_refused(train: Interactions) -> None:
    scorer = tied_scorer(train.n_users)
    scorer.table[3, 5] = torch.nan
    with pytest.raises(NonFiniteScoresError, match=r"user 'user 3' are NaN"):
        Preferences.infer(scorer, train, progress=False)


def test_a_scorer_may_track_gradients(train: Interactions) -> None:
    scorer = tied_scorer(train.n_users)
    expected = Preferences.infer(scorer, train, progress=False)
    scorer.table.requires_grad_()
    found = Preferences.infer(scorer, train, progress=False)
    assert found.fingerprint() == expected.fingerprint()


def test_scores_of_another_corpus_are_refused(train: Interactions) -> None:
    scorer = TableScorer(torch.zeros(train.n_users, N_ITEMS + 1))
    with pytest.raises(ValueError, match=rf"TableScorer.*{N_ITEMS + 1}.*{N_ITEMS}"):
        Preferences.infer(scorer, train, progress=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [("omega_m", 1.0), ("omega_m", -0.1), ("top_m", 0), ("n_draws", 0), ("block_size", 0)],
)
def test_options_out_of_range_are_named(train: Interactions, option: str, value: float) -> None:
    scorer = tied_scorer(train.n_users)
    with pytest.raises(ValueError, match=f"{option}.*{value}"):
        Preferences.infer(scorer, train, progress=False, **{option: value})
    assert not scorer.block_shapes


def test_save_and_load(train: Interactions, tmp_path: Path) -> None:
    saved = Preferences.infer(tied_scorer(train.n_users), train, omega_m=0.8, progress=False)
    saved.save(tmp_path / "preferences")
    loaded = Preferences.load(tmp_path / "preferences")
    for field in dataclasses.fields(Preferences):
        before, after = getattr(saved, field.name), getattr(loaded, field.name)
        np.testing.assert_array_equal(before, after)
        assert getattr(before, "dtype", None) == getattr(after, "dtype", None)
    assert loaded.fingerprint() == saved.fingerprint()


def test_the_fingerprint_tells_preferences_apart(train: Interactions) -> None:
    saved = Preferences.infer(tied_scorer(train.n_users), train, progress=False)
    assert dataclasses.replace(saved).fingerprint() == saved.fingerprint()
    for name in ARRAYS:
        changed = getattr(saved, name).copy()
        changed.flat[-1] += 1
        assert dataclasses.replace(saved, **{name: changed}).fingerprint() != saved.fingerprint()
    assert dataclasses.replace(saved, omega_m=0.25).fingerprint() != saved.fingerprint()


def test_a_file_of_version_0_1_0_keeps_its_fingerprint(tmp_path: Path) -> None:
    run = Path(__file__).parents[1] / "saved" / "v0.1.0" / "run-interrupted"
    old = Preferences.load(run / "preferences")
    checkpoint = json.loads((run / "model.checkpoint" / "manifest.json").read_text())
    assert old.fingerprint() == checkpoint["meta"]["identity"]["preferences"]
    old.save(tmp_path / "again")
    assert Preferences.load(tmp_path / "again").fingerprint() == old.fingerprint()
    assert dataclasses.replace(old, omega_m=0.25).fingerprint() != old.fingerprint()


@pytest.mark.parametrize("max_length", [None, 1, 3])
def test_hbr_weights_are_those_of_the_latest_positives(
    train: Interactions, max_length: int | None
) -> None:
    found = Preferences.infer(tied_scorer(train.n_users), train, progress=False)
    config = PDRecConfig(hbr_rank_weight=0.3, hbr_clip=1.2, hbr_rescale=1.7)
    weights = found.hbr_weights(train, config, max_length)
    assert (weights.shape, weights.dtype) == ((train.n_records,), np.float32)
    for start, stop in pairwise(train.indptr):
        n = max(min(stop - start - 1, max_length or train.n_records), 0)
        own = slice(stop - n, stop)
        expected = hbr_weights(
            np.array([0, n]),
            found.observed_scores[own],
            train.items[own],
            rank_weight=0.3,
            clip=1.2,
            rescale=1.7,
        )
        assert weights[own].tolist() == expected.tolist()
        assert not weights[start : stop - n].any()


def test_the_scorer_may_go_by_its_former_name(train: Interactions) -> None:
    expected = Preferences.infer(tied_scorer(train.n_users), train, progress=False)
    with pytest.warns(DeprecationWarning, match=r"infer\(source=...\) is called scorer= now"):
        found = Preferences.infer(source=tied_scorer(train.n_users), train=train, progress=False)
    assert found.fingerprint() == expected.fingerprint()


def test_load_refuses_another_kind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Preferences.load(tmp_path / "nowhere")


def test_synthetic_data_at_the_default_settings() -> None:
    train = synthetic(60, 150, seed=4)
    table = torch.rand(60, 150, generator=torch.Generator().manual_seed(5))
    found = Preferences.infer(TableScorer(table), train, progress=False)
    assert found.top_items.shape == (60, 50)
    assert found.negatives.shape == (60, 1024)
    scores = np.take_along_axis(table.numpy(), found.negatives.astype(np.int64), axis=1)
    assert (scores <= found.threshold_scores[:, None]).all()


def test_vectors_give_the_preferences_of_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic(60, 150, seed=2)
    scorer = DiffRec(hidden=(6,), epochs=1, device="cpu").fit(data, progress=False)
    options: dict[str, Any] = {"top_m": 7, "n_draws": 20, "omega_m": 0.3, "progress": False}
    expected = Preferences.infer(scorer, data, **options)
    monkeypatch.setattr(inference, "uses_vectors", lambda scorer: True)  # as on a GPU
    for block_size in (None, 7):
        found = Preferences.infer(scorer, data, block_size=block_size, **options)
        np.testing.assert_allclose(found.observed_scores, expected.observed_scores, rtol=1e-5)
        np.testing.assert_allclose(found.threshold_scores, expected.threshold_scores, rtol=1e-5)
        for name in ("top_items", "threshold_items", "negatives"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        ranks, expected_ranks = (
            ranks_within(data.indptr, of.observed_scores, data.items) for of in (found, expected)
        )
        np.testing.assert_array_equal(ranks, expected_ranks)


class ArrayScorer:
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> Any:
        return np.zeros((len(histories), histories.n_items))


class NarrowScorer:
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> Any:
        return torch.zeros(len(histories), histories.n_items - 1)


@pytest.mark.parametrize(
    ("scorer", "error", "message"),
    [
        (object(), TypeError, r"object cannot score: give it a method scores\("),
        (ArrayScorer(), TypeError, r"ArrayScorer.scores returned a ndarray.*torch.from_numpy"),
        (NarrowScorer(), ValueError, r"returned shape \(\d+, 96\), not \(\d+, 97\)"),
    ],
)
def test_scorers_that_cannot_be_used(
    train: Interactions, scorer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Preferences.infer(scorer, train, progress=False)


@pytest.mark.parametrize("option", ["top_m", "n_draws", "seed", "block_size"])
def test_numbers_that_are_not_whole_are_named(train: Interactions, option: str) -> None:
    options: dict[str, Any] = {option: 2.0}
    with pytest.raises(TypeError, match=rf"{option} must be a whole number, got 2\.0"):
        Preferences.infer(tied_scorer(train.n_users), train, **options)


def test_a_whole_split_is_no_training_data() -> None:
    split: Any = leave_one_out(synthetic(20, 50, seed=0))
    with pytest.raises(TypeError, match=r"got a Split; of a split, pass split\.train"):
        Preferences.infer(TableScorer(torch.zeros(20, 50)), split)


def test_nan_scores_name_their_scorer(train: Interactions) -> None:
    table = torch.zeros(train.n_users, N_ITEMS)
    table[6, 3] = torch.nan
    with pytest.raises(NonFiniteScoresError, match=r"TableScorer: .*user 'user 6' are NaN"):
        Preferences.infer(TableScorer(table), train, block_size=4, progress=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_scores_of_other_types_are_taken(train: Interactions, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(-900, 900, (train.n_users, N_ITEMS), generator=generator)
    expected, found = (
        Preferences.infer(TableScorer(scores), train, progress=False)
        for scores in (table.float(), table.to(dtype))
    )
    assert found.fingerprint() == expected.fingerprint()
