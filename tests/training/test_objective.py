import math

import pytest
import torch

from pdrec_fast.training.objective import distillation_loss, item_logits, ranking_loss


def nll(logit: float) -> float:
    """-log σ(s)."""
    return math.log1p(math.exp(-logit))


def test_cosine_logits_by_hand() -> None:
    states = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    items = torch.tensor([[[6.0, 8.0], [4.0, -3.0]], [[1.0, 1.0], [0.0, -7.0]]])
    logits = item_logits(states, items, similarity="cosine", temperature=5.0)
    torch.testing.assert_close(logits, torch.tensor([[5.0, 0.0], [5 / math.sqrt(2), -5.0]]))


def test_dot_logits_by_hand_ignore_the_temperature() -> None:
    states = torch.tensor([[3.0, 4.0]])
    items = torch.tensor([[[6.0, 8.0], [4.0, -3.0], [0.5, 0.0]]])
    logits = item_logits(states, items, similarity="dot", temperature=99.0)
    torch.testing.assert_close(logits, torch.tensor([[50.0, 0.0, 1.5]]))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_logits_broadcast_over_leading_axes(similarity: str) -> None:
    states, items = torch.randn(2, 3, 4), torch.randn(2, 3, 5, 4)
    logits = item_logits(states, items, similarity=similarity, temperature=2.0)
    assert logits.shape == (2, 3, 5)
    alone = item_logits(states[1, 2], items[1, 2], similarity=similarity, temperature=2.0)
    torch.testing.assert_close(logits[1, 2], alone)


def test_a_zero_vector_has_finite_cosine_logits_and_gradients() -> None:
    states = torch.zeros(1, 3, requires_grad=True)
    item_logits(states, torch.ones(1, 1, 3), similarity="cosine", temperature=5.0).sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_ranking_loss_by_hand() -> None:
    positive, negative = torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 1.0], [-3.0, 0.0]])
    # -log(1 - σ(s)) = -log σ(-s)
    negatives = (nll(-0.5) + nll(-1.0) + nll(3.0) + nll(0.0)) / 4
    plain = (nll(2.0) + nll(-1.0)) / 2 + negatives
    assert ranking_loss(positive, negative).item() == pytest.approx(plain, rel=1e-6)
    weighted = (0.5 * nll(2.0) + 3.0 * nll(-1.0)) / 2 + negatives
    found = ranking_loss(positive, negative, torch.tensor([0.5, 3.0])).item()
    assert found == pytest.approx(weighted, rel=1e-6)


def test_losses_stay_finite_at_extreme_logits() -> None:
    loss = ranking_loss(torch.tensor([-1e4]), torch.tensor([[1e4]]))
    assert loss.item() == pytest.approx(2e4)


def test_distillation_takes_the_best_of_each_row_by_hand() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0], [-1.0, -4.0, -3.0, 5.0]])
    candidates = torch.tensor([[7, 8, 9, 4], [1, 2, 3, 6]])
    expected = (nll(3.0) + nll(1.0) + nll(5.0) + nll(-1.0)) / 4
    assert distillation_loss(logits, candidates, 2).item() == pytest.approx(expected, rel=1e-6)


def test_absent_candidates_count_for_nothing() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0], [1.0, 9.0, 2.0], [9.0, 9.0, 9.0]])
    candidates = torch.tensor([[7, -1, -1], [5, -1, 6], [-1, -1, -1]])
    expected = (nll(0.0) + nll(2.0) + nll(1.0)) / 3
    assert distillation_loss(logits, candidates, 2).item() == pytest.approx(expected, rel=1e-6)


def test_absent_candidates_get_no_gradient() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, 1.0]], requires_grad=True)
    distillation_loss(logits, torch.tensor([[7, -1, -1, 2]]), 3).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, False, False, True]]


def test_no_candidate_at_all_is_no_loss() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = distillation_loss(logits, torch.full((2, 3), -1), 2)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_the_choice_follows_the_logits() -> None:
    candidates = torch.tensor([[7, 8, 9]])
    for best in range(3):
        logits = torch.full((1, 3), -1.0)
        logits[0, best] = 2.0
        logits.requires_grad_()
        distillation_loss(logits, candidates, 1).backward()
        assert logits.grad.nonzero().tolist() == [[0, best]]


def test_more_wanted_than_there_are_candidates() -> None:
    found = distillation_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3, 4]]), 10)
    assert found.item() == pytest.approx((nll(1.0) + nll(2.0)) / 2, rel=1e-6)
