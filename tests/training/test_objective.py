"""The two losses of the objective, by hand; for the logits see tests/ops/test_item_logits.py."""

import math
from typing import get_args

import pytest
import torch

from pdrec_fast.operands import SharedNegatives
from pdrec_fast.training.config import Loss
from pdrec_fast.training.objective import Objective

DOT = Objective("dot", 1.0)
# With the unit table, a state's logit of item i is its i-th coordinate.
UNITS = torch.eye(4)


def nll(logit: float) -> float:
    """-log σ(s)."""
    return math.log1p(math.exp(-logit))


def test_ranking_by_hand() -> None:
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    items = torch.tensor([[0, 1, 2], [1, 0, 3]])
    # -log(1 - σ(s)) = -log σ(-s)
    negatives = (nll(-0.5) + nll(-1.0) + nll(3.0) + nll(0.0)) / 4
    plain = (nll(2.0) + nll(-1.0)) / 2 + negatives
    assert DOT.ranking(states, UNITS, items).item() == pytest.approx(plain, rel=1e-6)
    weighted = (0.5 * nll(2.0) + 3.0 * nll(-1.0)) / 2 + negatives
    found = DOT.ranking(states, UNITS, items, torch.tensor([0.5, 3.0])).item()
    assert found == pytest.approx(weighted, rel=1e-6)


def test_softmax_ranking_by_hand() -> None:
    objective = Objective("dot", 1.0, loss="softmax")
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    items = torch.tensor([[0, 1, 2], [1, 0, 3]])
    first = math.log(1 + math.exp(0.5 - 2) + math.exp(1 - 2))
    second = math.log(1 + math.exp(-3 + 1) + math.exp(0 + 1))
    assert objective.ranking(states, UNITS, items).item() == pytest.approx((first + second) / 2)
    found = objective.ranking(states, UNITS, items, torch.tensor([0.5, 3.0])).item()
    assert found == pytest.approx((0.5 * first + 3 * second) / 2)
    found = objective.ranking(states, UNITS, items, count=torch.tensor(1)).item()
    assert found == pytest.approx(first)


def test_gbce_ranking_by_hand() -> None:
    # k = 2 of the N - 1 = 3 items: α = 2/3, β = α (t (1 - 1/α) + 1/α).
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    items = torch.tensor([[0, 1, 2], [1, 0, 3]])
    negatives = nll(-0.5) + nll(-1.0) + nll(3.0) + nll(0.0)
    for calibration, power in ((0.0, 1.0), (1.0, 2 / 3), (0.75, 0.75)):
        objective = Objective("dot", 1.0, loss="gbce", gbce_calibration=calibration)
        expected = (power * (nll(2.0) + nll(-1.0)) + negatives) / 6
        assert objective.ranking(states, UNITS, items).item() == pytest.approx(expected)
        expected = (power * (0.5 * nll(2.0) + 3 * nll(-1.0)) + negatives) / 6
        found = objective.ranking(states, UNITS, items, torch.tensor([0.5, 3.0])).item()
        assert found == pytest.approx(expected)
        first = (power * nll(2.0) + nll(-0.5) + nll(-1.0)) / 3
        found = objective.ranking(states, UNITS, items, count=torch.tensor(1)).item()
        assert found == pytest.approx(first)


def test_shared_softmax_ranking_by_hand() -> None:
    objective = Objective("dot", 1.0, loss="shared_softmax")
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    positives, shared = (
        torch.tensor([[0], [1]]),
        SharedNegatives(torch.tensor([1, 3, 3]), torch.tensor([0.1, 0.2, 0.3])),
    )
    first = math.log(1 + math.exp(0.6 - 2) + math.exp(7.2 - 2) + math.exp(7.3 - 2))
    second = math.log(1 + math.exp(0.2 + 1) + math.exp(0.3 + 1))  # item 1 is the positive
    found = objective.ranking(states, UNITS, positives, shared=shared).item()
    assert found == pytest.approx((first + second) / 2)
    found = objective.ranking(
        states, UNITS, positives, torch.tensor([0.5, 3.0]), torch.tensor(1), shared
    )
    assert found.item() == pytest.approx(0.5 * first)
    with_own = math.log(1 + math.exp(1.2) + math.exp(1.3) + math.exp(7 + 1))
    found = objective.ranking(states[1:], UNITS, torch.tensor([[1, 2]]), shared=shared).item()
    assert found == pytest.approx(with_own)
    with pytest.raises(ValueError, match="needs the negatives of the batch"):
        objective.ranking(states, UNITS, positives)


def test_corpus_softmax_is_cross_entropy() -> None:
    objective = Objective("dot", 1.0, loss="corpus_softmax")
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    positives = torch.tensor([0, 1])
    expected = torch.nn.functional.cross_entropy(states, positives).item()
    found = objective.ranking(states, UNITS, positives[:, None]).item()
    assert found == pytest.approx(expected)


def test_a_temperature_is_learned_by_every_loss() -> None:
    states = torch.tensor([[2.0, 0.5, 1.0, 7.0], [-3.0, -1.0, 7.0, 0.0]])
    items, shared = (
        torch.tensor([[0, 1, 2], [1, 0, 3]]),
        SharedNegatives(torch.tensor([1, 3]), torch.tensor([0.1, 0.2])),
    )
    for loss_name in get_args(Loss):

        def loss(temperature: float | torch.Tensor, loss_name: str = loss_name) -> torch.Tensor:
            objective = Objective("cosine", temperature, loss=loss_name)
            return objective.ranking(
                states, UNITS, items, shared=shared if loss_name == "shared_softmax" else None
            )

        temperature = torch.tensor(3.0, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(temperature), temperature)
        change = (loss(3.01) - loss(2.99)) / 0.02
        assert gradient.item() == pytest.approx(change.item(), rel=2e-3), loss_name


def test_distillation_is_the_same_with_every_ranking_loss() -> None:
    states, soft_positives = torch.tensor([[2.0, 0.5, 1.0, 7.0]]), torch.tensor([[0, 1, 2]])
    found = Objective("dot", 1.0, loss="softmax").distillation(states, UNITS, soft_positives, 2)
    assert found.item() == DOT.distillation(states, UNITS, soft_positives, 2).item()


@pytest.mark.parametrize("loss_name", ["bce", "gbce", "softmax"])
def test_a_positive_alone_has_nothing_to_be_set_against(loss_name: str) -> None:
    with pytest.raises(ValueError, match=r"needs negatives: .* got \[1, 1\]"):
        Objective("dot", 1.0, loss=loss_name).ranking(UNITS[:1], UNITS, torch.tensor([[0]]))


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss='bpr': choose one of \('bce', 'gbce', 'softmax'"):
        Objective("dot", 1.0, loss="bpr")


def test_similarity_and_temperature_reach_the_logits() -> None:
    objective = Objective("cosine", 5.0)
    states, items = torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.tensor([[0, 1]])
    expected = nll(5 * 3 / 5) + nll(-5 * 4 / 5)
    found = objective.ranking(states, 7 * UNITS, items).item()
    assert found == pytest.approx(expected, rel=1e-6)
    soft_positives = torch.tensor([[0, 1]])
    found = objective.distillation(states, 7 * UNITS, soft_positives, 1).item()
    assert found == pytest.approx(nll(4.0), rel=1e-6)


def test_losses_stay_finite_at_extreme_logits() -> None:
    states = torch.tensor([[-1e4, 1e4, 0.0, 0.0]])
    assert DOT.ranking(states, UNITS, torch.tensor([[0, 1]])).item() == pytest.approx(2e4)


@pytest.mark.parametrize("loss_name", ["bce", "softmax"])
def test_the_table_s_gradient_is_sparse_where_asked(loss_name: str) -> None:
    gradients = []
    for sparse in (False, True):
        table = UNITS.clone().requires_grad_()
        objective = Objective("cosine", 2.0, sparse_grad=sparse, loss=loss_name)
        states = torch.tensor([[1.0, 2.0, 0.5, 0.0]])
        loss = objective.ranking(states, table, torch.tensor([[0, 1]]))
        loss = loss + objective.distillation(states, table, torch.tensor([[2, 3]]), 1)
        loss.backward()
        assert table.grad is not None
        assert table.grad.is_sparse == sparse
        gradients.append(table.grad.to_dense())
    torch.testing.assert_close(*gradients)


def test_distillation_takes_the_best_of_each_row_by_hand() -> None:
    states = torch.tensor([[0.0, 3.0, 1.0, -2.0], [-1.0, -4.0, -3.0, 5.0]])
    soft_positives = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    expected = (nll(3.0) + nll(1.0) + nll(5.0) + nll(-1.0)) / 4
    found = DOT.distillation(states, UNITS, soft_positives, 2).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_absent_soft_positives_count_for_nothing() -> None:
    states = torch.tensor([[0.0, 9.0, 8.0, 9.0], [1.0, 9.0, 2.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    soft_positives = torch.tensor([[0, -1, -1], [0, -1, 2], [-1, -1, -1]])
    expected = (nll(0.0) + nll(2.0) + nll(1.0)) / 3
    found = DOT.distillation(states, UNITS, soft_positives, 2).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_absent_soft_positives_get_no_gradient() -> None:
    states = torch.tensor([[0.5, 9.0, 8.0, 1.0]], requires_grad=True)
    DOT.distillation(states, UNITS, torch.tensor([[0, -1, -1, 3]]), 3).backward()
    assert states.grad is not None
    assert (states.grad != 0).tolist() == [[True, False, False, True]]


def test_no_soft_positive_at_all_is_no_loss() -> None:
    states = torch.ones(2, 4, requires_grad=True)
    loss = DOT.distillation(states, UNITS, torch.full((2, 3), -1), 2)
    loss.backward()
    assert loss.item() == 0.0
    assert states.grad is not None
    assert not states.grad.any()


def test_the_choice_follows_the_logits() -> None:
    for best in range(3):
        states = torch.full((1, 4), -1.0)
        states[0, best] = 2.0
        states.requires_grad_()
        DOT.distillation(states, UNITS, torch.tensor([[0, 1, 2]]), 1).backward()
        assert states.grad is not None
        assert states.grad.nonzero().tolist() == [[0, best]]


def test_more_wanted_than_there_are_soft_positives() -> None:
    states = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    found = DOT.distillation(states, UNITS, torch.tensor([[0, 1]]), 10)
    assert found.item() == pytest.approx((nll(1.0) + nll(2.0)) / 2, rel=1e-6)


def test_arguments_go_by_their_former_names_too() -> None:
    states, items = torch.tensor([[2.0, 0.5, 1.0, 7.0]]), torch.tensor([[0, 1, 2]])
    with pytest.warns(DeprecationWarning, match=r"ranking\(items=...\) is called candidates= now"):
        assert DOT.ranking(states, UNITS, items=items) == DOT.ranking(states, UNITS, items)
    with pytest.warns(DeprecationWarning, match=r"distillation\(candidates=...\) is called soft_p"):
        found = DOT.distillation(states, UNITS, candidates=items, top_n=2)
    assert found == DOT.distillation(states, UNITS, items, 2)
