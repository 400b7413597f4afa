"""The multinomial likelihood and its gradients against the dense reference."""

import math

import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.operands import Categories
from pdrec_fast.ops import onednn
from pdrec_fast.ops.denoising import _blocks
from pdrec_fast.ops.denoising.corpus_cross_entropy import corpus_cross_entropy
from tests.ops.denoising.test_corpus_error import NAMES, SIZES, make_inputs

needs_onednn = pytest.mark.skipif(
    onednn.problem() is not None, reason="this torch was built without oneDNN"
)


def run(floats, target, impl, upstream, categories=None):
    """Losses and the gradients of ``(losses * upstream).sum()``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    losses = corpus_cross_entropy(*leaves, *target, categories=categories, impl=impl)
    (losses * upstream.to(losses.dtype)).sum().backward()
    return losses.detach(), [leaf.grad for leaf in leaves]


def test_by_hand():
    hidden = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    item_out = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    bias = torch.tensor([0.0, 1.0], requires_grad=True)
    target = torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([2.0, 1.0])
    losses = corpus_cross_entropy(hidden, item_out, bias, *target)
    # Logits (1, 1) have probabilities of a half; the second row has no target.
    torch.testing.assert_close(losses, torch.tensor([3 * math.log(2), 0.0]))
    losses.sum().backward()
    torch.testing.assert_close(bias.grad, torch.tensor([1.5 - 2, 1.5 - 1]))
    torch.testing.assert_close(hidden.grad[0], torch.tensor([-0.5, 0.5]))
    assert hidden.grad[1].tolist() == [0, 0]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1.6e-2, 0.05)],
)
def test_agrees_with_the_reference(sizes, strided, dtype, forward, backward):
    floats, target = make_inputs(*sizes, dtype=dtype, strided=strided)
    upstream = torch.rand(sizes[0], generator=torch.Generator().manual_seed(1)) - 0.3
    truth, true_gradients = run(
        [t.detach().double() for t in floats], target, "reference", upstream
    )
    losses, gradients = run(floats, target, "auto", upstream)
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    atol = forward
    if dtype == torch.bfloat16:  # of rounded logits
        hidden, item_out, bias = (t.detach().double() for t in floats)
        largest = (hidden @ item_out.T + bias).abs().max()
        atol = float(largest) * 2**-8 * float(target[2].sum())
    torch.testing.assert_close(losses.double(), truth, rtol=forward, atol=atol)
    for name, gradient, true in zip(NAMES, gradients, true_gradients, strict=True):
        assert gradient.dtype == dtype
        atol = backward * max(float(true.abs().max()), 1e-6)
        torch.testing.assert_close(gradient.double(), true, rtol=backward, atol=atol, msg=name)


# More categories than items or units; one without items; one whose items are many blocks.
CATEGORIES = [
    Categories(torch.zeros(129, dtype=torch.int64), torch.zeros(65, dtype=torch.int64)),
    Categories(torch.arange(129) % 3, torch.arange(65) // 25),
    Categories((torch.arange(129) > 100) * 3, torch.arange(65) // 16),
]


@pytest.mark.parametrize("impl", ["dense", pytest.param("blocks", marks=needs_onednn), "reference"])
@pytest.mark.parametrize("categories", [None, *CATEGORIES])
def test_entries_between_categories_do_not_count(impl, categories, monkeypatch):
    monkeypatch.setattr(_blocks, "_ITEMS", 16)
    floats, target = make_inputs(33, 129, 65, dtype=torch.float32)
    upstream = torch.rand(33, generator=torch.Generator().manual_seed(1)) - 0.3
    leaves = [t.detach().double().requires_grad_() for t in floats]
    inside = torch.ones(129, 65)
    if categories is not None:
        inside = (categories.of_item[:, None] == categories.of_width).double()
    logits = leaves[0] @ (leaves[1] * inside).T + leaves[2]
    x = torch.zeros(33, 129, dtype=torch.float64)
    x[target[:2]] = target[2].double()
    truth = -(x * logits.log_softmax(1)).sum(1)
    (truth * upstream.double()).sum().backward()
    losses, gradients = run(floats, target, impl, upstream, categories)
    torch.testing.assert_close(losses.double(), truth.detach(), rtol=1e-5, atol=1e-5)
    for name, gradient, leaf in zip(NAMES, gradients, leaves, strict=True):
        atol = 1e-4 * float(leaf.grad.abs().max())
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-4, atol=atol, msg=name)
    assert not gradients[1][inside == 0].any()


@needs_onednn
def test_torch_knows_the_operation_on_blocks():
    floats, target = make_inputs(5, 17, 9, dtype=torch.float32)
    categories = torch.arange(17) % 2, torch.arange(9) // 5
    given = *floats, *target, *categories
    torch.library.opcheck(torch.ops.pdrec_fast.corpus_cross_entropy_blocks.default, given)


@pytest.mark.parametrize(
    ("of_item", "of_width", "message"),
    [
        ([0] * 6, [0, 1], r"shapes \[7\] and \[2\]"),
        ([0] * 7, [1, 0], "must rise"),
        ([-1] + [0] * 6, [0, 1], "from 0 on"),
        ([0] * 6 + [2], [0, 1], "category 2 of item 6 has none"),
    ],
)
def test_categories_that_do_not_fit(of_item, of_width, message):
    floats, target = make_inputs(3, 7, 2)
    categories = Categories(torch.tensor(of_item), torch.tensor(of_width))
    with pytest.raises(ValueError, match=message):
        corpus_cross_entropy(*floats, *target, categories=categories)


def test_blocks_do_not_fall_back():
    floats, target = make_inputs(3, 7, 2)
    with pytest.raises(BackendError, match="it multiplies float32"):
        corpus_cross_entropy(*floats, *target, impl="blocks")


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1e4]])
    item_out = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    target = torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0])
    losses = corpus_cross_entropy(hidden, item_out, torch.zeros(2), *target)
    assert losses.tolist() == [2e4]
    losses.sum().backward()
    assert item_out.grad.flatten().tolist() == [1e4, -1e4]


def test_refuses_what_does_not_fit():
    floats, target = make_inputs(3, 7, 2)
    with pytest.raises(ValueError, match="must share H"):
        corpus_cross_entropy(floats[0], floats[1][:, :1], floats[2], *target)
    with pytest.raises(ValueError, match="unknown impl='gram'"):
        corpus_cross_entropy(*floats, *target, impl="gram")
