"""``packed_dropout``: the mask as documented, its share, its gradient, and equal bits."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.reference.counter_rng import ragged_words, words
from tests.ops.packed._sequences import key_for, offsets

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
LENGTHS = (200, 17, 8, 2, 1, 1, 0)


def make_x(lengths, width):
    generator = torch.Generator().manual_seed(width)
    return torch.randn(sum(lengths), width, generator=generator)


@pytest.mark.parametrize("seed", [5, 2**64 - 3])
@pytest.mark.parametrize("width", [1, 3, 7, 64])
def test_the_documented_words_are_kept(width, seed, impl):
    p, key, x = 0.3, key_for(LENGTHS, seed=seed), make_x(LENGTHS, width)
    expected = torch.zeros_like(x)
    token = 0
    for length, user in zip(LENGTHS, key.users.tolist(), strict=True):
        word = words(seed, 2, np.array([user]), length * width, 21)[0]
        for place in range(length):
            keep = word[place * width : (place + 1) * width] >= round(p * 2**32)
            expected[token] = x[token] * keep / (1 - p)
            token += 1
    out = packed_dropout(x, offsets(LENGTHS), p, key=key, stream=21, impl=impl)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=0)
    assert torch.equal(out == 0, expected == 0)


def test_ragged_words_are_each_users_words():
    users, n_words = torch.tensor([9, 4, 9, 0]), torch.tensor([5, 0, 8, 1])
    found = ragged_words(3, 1, users, n_words, 17).split(n_words.tolist())
    for user, n, part in zip(users, n_words.tolist(), found, strict=True):
        assert torch.equal(part, words(3, 1, user[None].numpy(), n, 17)[0])


def test_the_gradient_has_the_same_mask(impl):
    x = make_x(LENGTHS, 5).requires_grad_()
    out = packed_dropout(x, offsets(LENGTHS), 0.4, key=key_for(LENGTHS), stream=16, impl=impl)
    (grad_x,) = torch.autograd.grad(out.sum(), x)  # an expanded gradient
    torch.testing.assert_close(grad_x, (out != 0) / 0.6, rtol=1e-6, atol=0)


def test_gradients_of_the_reference():
    x = make_x((3, 1), 5).double().requires_grad_()

    def dropout(x):
        return packed_dropout(x, offsets((3, 1)), 0.4, key=key_for((3, 1)), stream=16)

    assert torch.autograd.gradcheck(dropout, x)
    assert torch.autograd.gradgradcheck(dropout, x)


def test_columns_of_a_wider_tensor(impl):
    x = make_x(LENGTHS, 14)[:, ::2]
    keywords = {"key": key_for(LENGTHS), "stream": 16, "impl": impl}
    out = packed_dropout(x, offsets(LENGTHS), 0.4, **keywords)
    assert torch.equal(out, packed_dropout(x.contiguous(), offsets(LENGTHS), 0.4, **keywords))


def test_nothing_is_dropped_for_p_0(impl):
    x = make_x(LENGTHS, 5)
    assert torch.equal(packed_dropout(x, offsets(LENGTHS), 0, key=None, stream=1, impl=impl), x)


def test_dropout_keeps_its_share_and_the_mean(impl):
    x = torch.ones(4000, 16)
    for p in (0.1, 0.5, 0.9):
        out = packed_dropout(x, offsets((3000, 1000)), p, key=key_for((1, 1)), stream=3, impl=impl)
        spread = math.sqrt(p * (1 - p) / x.numel())
        assert abs((out != 0).double().mean() - (1 - p)) < 4 * spread
        assert out.mean() == pytest.approx(1, abs=4 * spread / (1 - p))


@needs_extension
def test_the_bits_depend_on_neither_threads_nor_instruction_set():
    lengths = (20000, 9000, 17)  # enough work for several threads
    x, before, results = make_x(lengths, 64), build_info()["isa"], []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            keywords = {"key": key_for(lengths), "stream": 16, "impl": "cpp"}
            results.append(packed_dropout(x, offsets(lengths), 0.2, **keywords))
    torch.set_num_threads(1)
    extension.set_isa(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_sequence_does_not_depend_on_its_batch(impl):
    key, x = key_for(LENGTHS), make_x(LENGTHS, 6)
    together = packed_dropout(x, offsets(LENGTHS), 0.3, key=key, stream=16, impl=impl)
    order = [3, 0, 5]
    alone = packed_dropout(
        torch.cat([x.split(LENGTHS)[at] for at in order]),
        offsets([LENGTHS[at] for at in order]),
        0.3,
        key=DropoutKey(key.seed, key.epoch, key.users[order]),
        stream=16,
        impl=impl,
    )
    assert torch.equal(alone, torch.cat([together.split(LENGTHS)[at] for at in order]))


def test_an_empty_batch(impl):
    x = torch.zeros(0, 4)
    out = packed_dropout(x, offsets(()), 0.3, key=key_for(()), stream=16, impl=impl)
    assert out.shape == (0, 4)


@needs_extension
def test_custom_op_contract():
    torch.use_deterministic_algorithms(False)
    x = make_x((5, 2), 8).requires_grad_()
    arguments = (x, offsets((5, 2)), torch.arange(2), 0.3, -5, 2, 17)
    torch.library.opcheck(torch.ops.pdrec_fast.packed_dropout.default, arguments)


@needs_extension
def test_compiles_without_a_graph_break():
    torch.use_deterministic_algorithms(False)
    x, keywords = make_x((5, 2), 8).requires_grad_(), {"key": key_for((5, 2)), "stream": 16}
    compiled = torch.compile(packed_dropout, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(x, offsets((5, 2)), 0.3, **keywords).sum(), x)
    eager = packed_dropout(x, offsets((5, 2)), 0.3, **keywords)
    assert torch.equal(found, torch.autograd.grad(eager.sum(), x)[0])


@needs_extension
def test_choice_of_implementation():
    x, keywords = make_x((5, 2), 8), {"key": key_for((5, 2)), "stream": 16}
    auto = packed_dropout(x, offsets((5, 2)), 0.3, **keywords)
    assert torch.equal(auto, packed_dropout(x, offsets((5, 2)), 0.3, **keywords, impl="cpp"))
    with pytest.raises(BackendError, match=r"float32, got torch.float64.*reference"):
        packed_dropout(x.double(), offsets((5, 2)), 0.3, **keywords, impl="cpp")
    with torch.autocast("cpu", torch.bfloat16):
        out = packed_dropout(x.bfloat16(), offsets((5, 2)), 0.3, **keywords, impl="cpp")
    assert out.dtype == torch.float32


@pytest.mark.parametrize("indptr", [[1, 7], [0, 6], [0, 9], [0, 5, 3, 7]])
def test_bounds_outside_the_tokens_are_refused(indptr, impl):
    key = key_for(indptr[1:])
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        packed_dropout(torch.zeros(7, 2), torch.tensor(indptr), 0.1, key=key, stream=1, impl=impl)


def test_bad_arguments_are_named():
    x, indptr = torch.zeros(7, 2), torch.tensor([0, 7])
    with pytest.raises(ValueError, match=r"x must have shape \[T, width\], got \(7,\)"):
        packed_dropout(x[:, 0], indptr, 0.1, key=key_for((7,)), stream=1)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        packed_dropout(x, indptr, 1, key=key_for((7,)), stream=1)
    with pytest.raises(ValueError, match=r"needs a key"):
        packed_dropout(x, indptr, 0.1, key=None, stream=1)
