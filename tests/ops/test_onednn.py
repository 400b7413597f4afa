"""oneDNN's products against torch's."""

import pytest
import torch
import torch.nn.functional as F

from pdrec_fast.ops import onednn


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (65, 301, 33), (1, 40, 1), (0, 7, 3)])
@pytest.mark.parametrize("layout", ["plain", "transposed", "part", "spread"])
def test_a_product_of_any_layout(shape, layout):
    n_rows, n_columns, depth = shape

    def laid_out(matrix):
        if layout == "transposed":
            return matrix.T.contiguous().T
        if layout == "part":
            return torch.cat([matrix.new_full((len(matrix), 2), torch.nan), matrix], dim=1)[:, 2:]
        return matrix.repeat_interleave(2, dim=1)[:, ::2] if layout == "spread" else matrix

    x, weight = normal(n_rows, depth), normal(n_columns, depth, seed=1)
    bias = normal(n_columns, seed=2).repeat_interleave(2)[::2]
    for given in (None, bias):
        found = onednn.linear(laid_out(x), laid_out(weight), given)
        torch.testing.assert_close(found, F.linear(x, weight, given), rtol=1e-5, atol=1e-5)


def test_other_types_are_torchs():
    x, weight = normal(3, 5).double(), normal(4, 5).double()
    assert torch.equal(onednn.linear(x, weight), x @ weight.T)
    assert onednn.problem(x, weight) == "it multiplies float32 on a CPU"


def test_the_gradients_of_a_layer_over_the_corpus():
    x = normal(9, 301)
    leaves = [normal(7, 301, seed=1).requires_grad_(), normal(7, seed=2).requires_grad_()]
    upstream = normal(9, 7, seed=3)
    found = onednn.corpus_layer(x, *leaves)
    gradients = torch.autograd.grad((found * upstream).sum(), leaves)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    true = F.linear(x.double(), *wide)
    truth = torch.autograd.grad((true * upstream.double()).sum(), wide)
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-4)
    for gradient, wanted in zip(gradients, truth, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.library.opcheck(torch.ops.pdrec_fast.corpus_layer.default, (x, *leaves))
