"""Tokens, safe negatives and the loss of a batch, against loops straight from the equations."""

import math
from dataclasses import replace
from itertools import chain, combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data import Interactions
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.errors import DataError
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import MODULES, PDRec
from pdrec_fast.training.batches import Batch, TrainingBatches
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.negatives import safe_negatives
from pdrec_fast.training.task import PDRecTask
from pdrec_fast.training.tokens import TrainingTokens
from tests.rows import ragged

N_ITEMS, N_DRAWS, MAX_LENGTH = 13, 7, 3
ROWS = [[1, 2, 3, 4, 5], [6], [], [7, 8], [9, 2, 9], [0, 1, 0, 3]]
SUBSETS = list(chain.from_iterable(combinations(MODULES, size) for size in range(4)))


class Scaled(nn.Module):
    """State = twice the item's embedding, so that a loop can follow."""

    max_length = MAX_LENGTH

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_items, 4)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        return 2 * self.item_embedding(batch.items)


@pytest.fixture(scope="module")
def train() -> Interactions:
    return Interactions(
        indptr=ragged(ROWS).indptr,
        items=ragged(ROWS).values,
        timestamps=None,
        user_ids=np.arange(100, 100 + len(ROWS)),
        item_ids=np.arange(N_ITEMS),
    )


@pytest.fixture(scope="module")
def preferences(train: Interactions) -> Preferences:
    """Row u of the draws is 10 u + (0, 1, ...) modulo the items; user 3 lacks soft positives."""
    rng = np.random.default_rng(0)
    users = np.arange(len(ROWS))
    top_items = rng.permuted(np.tile(np.arange(N_ITEMS, dtype=np.int32), (len(ROWS), 1)), axis=1)
    top_items = top_items[:, :5]
    top_items[3, 1:] = -1
    return Preferences(
        n_items=N_ITEMS,
        data=train.fingerprint(),
        omega_m=0.5,
        indptr=train.indptr,
        observed_scores=rng.normal(size=train.n_records).astype(np.float32),
        top_items=top_items,
        threshold_scores=np.zeros(len(ROWS), dtype=np.float32),
        threshold_items=np.zeros(len(ROWS), dtype=np.int32),
        negatives=((10 * users[:, None] + np.arange(N_DRAWS)) % N_ITEMS).astype(np.int32),
    )


def task_of(
    train: Interactions, preferences: Preferences | None, modules: tuple[str, ...], **settings: Any
) -> PDRecTask:
    model = PDRec(Scaled, modules=modules, **settings)
    torch.manual_seed(0)
    model.encoder = Scaled(train.n_items)
    return model.training_task(train, preferences)


def test_tokens_are_the_latest_pairs_of_users_with_two_records(train: Interactions) -> None:
    tokens = TrainingTokens(train, MAX_LENGTH)
    assert tokens.users.tolist() == [0, 3, 4, 5]
    assert tokens.lengths.tolist() == [3, 1, 2, 3]
    assert tokens.starts.tolist() == [0, 3, 4, 6]
    assert tokens.indptr.tolist() == [0, 3, 4, 6, 9]
    assert tokens.inputs.packed()[1].tolist() == [2, 3, 4, 7, 9, 2, 0, 1, 0]
    assert tokens.targets.tolist() == [3, 4, 5, 8, 2, 9, 1, 0, 3]
    assert tokens.token_users.tolist() == [0, 0, 0, 3, 4, 4, 5, 5, 5]
    assert train.items[tokens.target_records].tolist() == tokens.targets.tolist()
    assert (tokens.n_sequences, tokens.n_tokens) == (4, 9)
    sequences = TrainingBatches(Guidance(train, modules=(), max_length=3))._inputs_and_complete
    complete = sequences[tokens.n_sequences :]
    assert complete.packed()[1].tolist() == ROWS[0] + ROWS[3] + ROWS[4] + ROWS[5]
    both = sequences[: tokens.n_sequences]
    assert both.packed()[1].tolist() == tokens.inputs.packed()[1].tolist()
    assert both.users.tolist() == tokens.users.tolist()
    assert not set(complete.users) & set(range(train.n_users))


def test_windows_hold_every_next_item_once(train: Interactions) -> None:
    tokens = TrainingTokens(train, 2, windows=True)
    assert tokens.users.tolist() == [0, 0, 3, 4, 5, 5]
    assert tokens.lengths.tolist() == [2, 2, 1, 2, 1, 2]
    assert tokens.latest.tolist() == [False, True, True, True, False, True]
    assert tokens.inputs.packed()[1].tolist() == [1, 2, 3, 4, 7, 9, 2, 0, 1, 0]
    assert tokens.targets.tolist() == [2, 3, 4, 5, 8, 2, 9, 1, 0, 3]
    assert [len(row) for row in ROWS if len(row) > 1] == [5, 2, 3, 4]  # one less each is 10
    assert tokens.histories[[0, 1]].packed()[1].tolist() == [1, 2, 3, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("modules", SUBSETS)
def test_windows_of_a_short_encoder_train_on_what_a_long_one_does(
    train: Interactions, preferences: Preferences, modules: tuple[str, ...]
) -> None:
    """The states of this encoder do not depend on where a sequence begins: loss and gradient of all
    users must be those without any cut, HBR's scale, NNS's draws and DPA's users among them."""

    def loss_of(max_length: int, windows: bool) -> torch.Tensor:
        class Short(Scaled):
            pass

        Short.max_length = max_length
        model = PDRec(Short, modules=modules, windows=windows, dpa_top_n=2)
        torch.manual_seed(0)
        model.encoder = Short(train.n_items)
        task = model.training_task(train, preferences)
        negatives = task.batches.guidance.token_negatives(2)
        everyone = np.arange(task.batches.tokens.n_sequences)
        return task.batch_loss(task.batches.batch(everyone, negatives, 2))

    whole = loss_of(100, windows=False)
    for max_length in (1, 2, 3):
        torch.testing.assert_close(loss_of(max_length, windows=True), whole)
    assert abs(loss_of(2, windows=False) - whole) > 1e-4


def test_inputs_fit_the_encoder_exactly(train: Interactions) -> None:
    tokens = TrainingTokens(train, MAX_LENGTH)
    assert pack(tokens.inputs, MAX_LENGTH).n_tokens == len(tokens.targets)


def test_no_next_item_to_learn() -> None:
    single = Interactions(np.array([0, 1, 2]), np.array([0, 1]), None, np.arange(2), np.arange(3))
    with pytest.raises(DataError, match="two training records"):
        TrainingTokens(single, MAX_LENGTH)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_safe_negatives_are_consumed_in_order_and_wrap_around(
    train: Interactions, preferences: Preferences, n: int
) -> None:
    tokens = TrainingTokens(train, MAX_LENGTH)
    epochs = [safe_negatives(preferences, tokens, n, seed=3, epoch=epoch) for epoch in range(6)]
    assert all(drawn.shape == (9, n) and drawn.dtype == np.int64 for drawn in epochs)
    for user in tokens.users:
        consumed = np.concatenate([drawn[tokens.token_users == user].ravel() for drawn in epochs])
        table = preferences.negatives[user].tolist()
        first = table.index(consumed[0])
        expected = [table[(first + draw) % N_DRAWS] for draw in range(len(consumed))]
        assert consumed.tolist() == expected


def test_safe_negatives_begin_elsewhere_for_users_and_seeds(
    train: Interactions, preferences: Preferences
) -> None:
    tokens = TrainingTokens(train, MAX_LENGTH)
    firsts = set()
    for seed in range(30):
        drawn = safe_negatives(preferences, tokens, 1, seed=seed, epoch=0)[:, 0]
        places = [
            preferences.negatives[user].tolist().index(drawn[start])
            for user, start in zip(tokens.users, tokens.starts, strict=True)
        ]
        firsts.add(tuple(places))
    assert len(firsts) > 25
    assert all(len(set(places)) == N_DRAWS for places in zip(*firsts, strict=True))


@pytest.mark.parametrize("modules", SUBSETS)
def test_nns_adds_negatives_and_the_others_change_none(
    train: Interactions, preferences: Preferences, modules: tuple[str, ...]
) -> None:
    settings = {"seed": 2, "random_negatives": 2, "safe_negatives": 3}
    plain = task_of(train, None, (), **settings)
    guided = task_of(train, preferences, modules, **settings)
    negatives = guided.batches.guidance.token_negatives(4)
    np.testing.assert_array_equal(negatives[:, :2], plain.batches.guidance.token_negatives(4))
    if "nns" in modules:
        safe = safe_negatives(preferences, guided.batches.tokens, 3, seed=2, epoch=4)
        np.testing.assert_array_equal(negatives[:, 2:], safe)
    else:
        assert negatives.shape == (9, 2)


def equation_2(scores: list[float], *, rank_weight: float, clip: float, rescale: float) -> list:
    low, high, p = min(scores), max(scores), len(scores)
    normalised = [(o - low) / (high - low) if high > low else 1.0 for o in scores]
    omega_s = p / sum(normalised)
    weights = []
    for o, share in zip(scores, normalised, strict=True):
        rank = 1 + sum(other > o for other in scores)
        weight = (1 - rank_weight) * omega_s * share + rank_weight * (1 + p - rank) / p
        weights.append(rescale * min(max(weight, 0.0), clip))
    return weights


def loss_from_the_equations(
    task: PDRecTask, preferences: Preferences, batch: list[int], negatives: np.ndarray
) -> float:
    """Equations 2 and 4 to 6, or a softmax for 4, for a batch of rows of the tokens, one token at a
    time."""
    config = task.config
    vectors = task.encoder.item_embedding.weight.detach().double().numpy()

    def logit_of(last: int, item: int) -> float:
        a, b = 2 * vectors[last], vectors[item]
        logit = float(a @ b)
        if config.similarity == "cosine":
            logit *= config.temperature / math.sqrt(float(a @ a) * float(b @ b))
        return logit

    def nll(last: int, item: int, sign: int) -> float:
        return math.log1p(math.exp(-sign * logit_of(last, item)))

    def softmax_nll(last: int, items: list[int]) -> float:
        exponentials = [math.exp(logit_of(last, item)) for item in items]
        return -math.log(exponentials[0] / sum(exponentials))

    users = [0, 3, 4, 5]
    starts = [0, 3, 4, 6]
    positives, negative, soft = [], [], []
    for row in batch:
        sequence, user = ROWS[users[row]], users[row]
        pairs = list(pairwise(sequence))[-MAX_LENGTH:]
        weights = [1.0] * len(pairs)
        if "hbr" in config.modules:
            records = range(preferences.indptr[user], preferences.indptr[user + 1])
            scores = [float(preferences.observed_scores[r]) for r in records][-len(pairs) :]
            weights = equation_2(
                scores,
                rank_weight=config.hbr_rank_weight,
                clip=config.hbr_clip,
                rescale=config.hbr_rescale,
            )
        for place, (last, target) in enumerate(pairs):
            drawn = negatives[starts[row] + place].tolist()
            if config.loss == "softmax":
                positives.append(weights[place] * softmax_nll(last, [target, *drawn]))
                continue
            positives.append(weights[place] * nll(last, target, +1))
            negative += [nll(last, item, -1) for item in drawn]
        if "dpa" in config.modules:
            present = [item for item in preferences.top_items[user].tolist() if item >= 0]
            losses = sorted(nll(sequence[-1], item, +1) for item in present)
            soft += losses[: config.dpa_top_n]
    loss = sum(positives) / len(positives) + sum(negative) / max(len(negative), 1)
    return loss + (config.dpa_weight * sum(soft) / len(soft) if soft else 0.0)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("modules", SUBSETS)
def test_batch_loss_follows_the_equations(
    train: Interactions,
    preferences: Preferences,
    modules: tuple[str, ...],
    similarity: str,
    loss: str,
) -> None:
    task = task_of(
        train,
        preferences,
        modules,
        similarity=similarity,
        loss=loss,
        temperature=2.5,
        hbr_rank_weight=0.3,
        hbr_clip=1.2,
        hbr_rescale=1.7,
        dpa_top_n=2,
        dpa_weight=0.4,
        random_negatives=2,
        safe_negatives=2,
    )
    negatives = task.batches.guidance.token_negatives(1)
    for batch in ([0, 1, 2, 3], [3, 0], [1]):
        found = task.batch_loss(task.batches.batch(np.array(batch), negatives, 1))
        expected = loss_from_the_equations(task, preferences, batch, negatives)
        assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_changes_the_loss(
    train: Interactions, preferences: Preferences, module: str
) -> None:
    losses = []
    for modules in ((), (module,)):
        task = task_of(train, preferences, modules, dpa_top_n=2)
        negatives = task.batches.guidance.token_negatives(0)
        losses.append(task.batch_loss(task.batches.batch(np.arange(4), negatives, 0)).item())
    assert abs(losses[0] - losses[1]) > 1e-3


def test_dpa_counts_from_the_epoch_it_starts_at(
    train: Interactions, preferences: Preferences
) -> None:
    def loss(modules: tuple[str, ...], epoch: int, dpa_start: int = 0) -> float:
        task = task_of(train, preferences, modules, dpa_top_n=2, dpa_start=dpa_start)
        negatives = task.batches.guidance.token_negatives(epoch)
        return task.batch_loss(task.batches.batch(np.arange(4), negatives, epoch)).item()

    for epoch in (0, 1):
        assert loss(MODULES, epoch, dpa_start=2) == loss(("hbr", "nns"), epoch)
    for epoch in (2, 3):
        assert (
            loss(MODULES, epoch, dpa_start=2) == loss(MODULES, epoch) != loss(("hbr", "nns"), epoch)
        )


def test_the_loss_of_all_users_does_not_depend_on_their_order(
    train: Interactions, preferences: Preferences
) -> None:
    task = task_of(train, preferences, MODULES)
    negatives = task.batches.guidance.token_negatives(0)
    losses = [
        task.batch_loss(task.batches.batch(np.array(order), negatives, 0)).item()
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0])
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_an_epoch_visits_every_user_once_and_decays_the_rate(
    train: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(train, None, (), batch_size=3, lr=0.1, lr_decay=0.5)
    batches: list[np.ndarray] = []
    original = TrainingBatches.batch

    def spy(self: TrainingBatches, users: np.ndarray, negatives: np.ndarray, epoch: int) -> Batch:
        batches.append(users)
        return original(self, users, negatives, epoch)

    monkeypatch.setattr(TrainingBatches, "batch", spy)
    orders = []
    for epoch in range(4):
        batches.clear()
        assert task.train_epoch(epoch).shape == (2,)
        assert [len(users) for users in batches] == [3, 1]
        orders.append(tuple(np.concatenate(batches).tolist()))
        assert sorted(orders[-1]) == [0, 1, 2, 3]
        assert task.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**epoch)
    assert len(set(orders)) > 1


def test_training_leaves_the_global_generator_alone(train: Interactions) -> None:
    task = task_of(train, None, ())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    task.train_epoch(0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("table_optimizer", ["dense", "rows"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_step_moves_the_rows_of_its_items_or_all(
    train: Interactions, preferences: Preferences, table_optimizer: str, sparse: bool
) -> None:
    """The lookup, the ranking and DPA's distillation each give a gradient of the table."""
    task = task_of(train, preferences, MODULES, dpa_top_n=2, table_optimizer=table_optimizer)
    assert task.sparse
    task.objective = replace(task.objective, sparse_grad=sparse)
    task.encoder.item_embedding.sparse = sparse
    table, negatives = task.encoder.item_embedding.weight, np.array([[11], [12]] * 5)[:9]
    first = task.batches.batch(np.array([0, 3]), negatives, 0)
    second = task.batches.batch(np.array([1]), negatives, 0)
    task.step(first)
    before = table.detach().clone()
    task.step(second)
    moved = set((table != before).any(dim=1).nonzero().ravel().tolist())
    items = {7, 8, int(negatives[3, 0]), int(preferences.top_items[3, 0])}  # of user 3
    if table_optimizer == "rows":
        assert moved == items
        return
    # Adam's running means move the first batch's items on.
    assert moved > items
    assert {1, 2, 3} <= moved


def test_rows_of_a_sparse_gradient_move_as_those_of_a_dense_one(
    train: Interactions, preferences: Preferences
) -> None:
    tables = []
    for sparse in (True, False):
        task = task_of(train, preferences, MODULES, batch_size=2, table_optimizer="rows")
        task.sparse = sparse
        task.objective = replace(task.objective, sparse_grad=sparse)
        for epoch in range(3):
            task.train_epoch(epoch)
        tables.append(task.encoder.item_embedding.weight.detach())
    torch.testing.assert_close(*tables, rtol=1e-4, atol=1e-5)
