"""``packed_dropout`` in Triton: the CPU's bits, and which program has which sequence."""

import numpy as np
import pytest
import torch

from tests.ops.packed._sequences import high_key_for, offsets

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from pdrec_fast.errors import BackendError
from pdrec_fast.kernels.triton.packed import _sequences as packed
from pdrec_fast.kernels.triton.packed import packed_dropout as kernels
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.reference.counter_rng import words

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
LENGTHS = (200, 17, 8, 0, 2, 1, 1, 0)


def make_x(lengths, width, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    return torch.randn(sum(lengths), width, generator=generator).to(device, dtype)


@triton.jit(do_not_specialize=(*packed.NOT_SPECIALIZED, "stream"))
def _draw(out, user, seed, epoch, stream, N: tl.constexpr):
    word = packed.draw(tl.arange(0, N), tl.load(user), seed, epoch, stream)
    tl.store(out + tl.arange(0, 4 * N), word.to(tl.int64))


@pytest.mark.parametrize("seed", [0, 1, -3, 2**40 + 5, -(2**63)])
@pytest.mark.parametrize(("user", "epoch", "stream"), [(0, 1, 2**32 - 1), (2**32 - 1, 2**31, 7)])
def test_the_words_are_those_of_the_cpu(seed, user, epoch, stream, device):
    out = torch.zeros(64, dtype=torch.int64, device=device)
    _draw[(1,)](out, torch.tensor([user], device=device), seed, epoch, stream, N=16)
    expected = words(seed % 2**64, epoch, np.array([user]), 64, stream)[0]
    assert torch.equal(out.cpu(), expected)


@triton.jit
def _locate(out, indptr, n_sequences, LEVELS: tl.constexpr):
    slot = tl.program_id(0)
    sequence, first, length, begin = packed.locate(slot, indptr, n_sequences, 3, 8, 4, LEVELS)
    tl.store(out + slot * 4, sequence.to(tl.int64))
    tl.store(out + slot * 4 + 1, first)
    tl.store(out + slot * 4 + 2, length.to(tl.int64))
    tl.store(out + slot * 4 + 3, begin.to(tl.int64))


@pytest.mark.parametrize("n_sequences", [1, 4, 5, 27])
def test_every_block_has_one_program(n_sequences, device):
    lengths = [(7 * b) % 11 for b in range(n_sequences)]
    levels = 1 + sum(4**level < n_sequences for level in (1, 2))
    out = torch.full((packed.n_slots(3 * sum(lengths), n_sequences, 8), 4), -1, device=device)
    _locate[(len(out),)](out, offsets(lengths, device), n_sequences, LEVELS=levels)
    found = [tuple(row) for row in out.tolist() if row[3] < row[2]]
    expected, first = [], 0
    for b, length in enumerate(lengths):
        expected += [(b, first, 3 * length, begin) for begin in range(0, 3 * length, 8)]
        first += 3 * length
    assert found == expected


def test_a_search_reaches_every_sequence():
    assert packed.search(1)["LEVELS"] == packed.search(packed.FAN)["LEVELS"] == 1
    assert packed.search(packed.FAN + 1)["LEVELS"] == packed.search(packed.FAN**2)["LEVELS"] == 2


@pytest.mark.parametrize("seed", [5, 2**64 - 3])
@pytest.mark.parametrize("p", [0.3, 0.7])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_the_bits_are_those_of_the_cpu(width, p, seed, device):
    x = make_x(LENGTHS, width, device)
    keywords = {"key": high_key_for(LENGTHS, device, seed), "stream": 2**31 + 21}
    found = packed_dropout(x, offsets(LENGTHS, device), p, **keywords, impl="triton")
    expected = packed_dropout(x, offsets(LENGTHS, device), p, **keywords, impl="reference")
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize(("block", "num_warps"), kernels.CONFIGS)
def test_every_block_size_gives_the_same_bits(block, num_warps, device):
    x, indptr = make_x(LENGTHS, 12, device), offsets(LENGTHS, device)
    arguments = (x, PackedDropout(indptr, high_key_for(LENGTHS, device, 5).users, 0.3, -5, 2, 17))
    found = kernels.packed_dropout(*arguments, block=block, num_warps=num_warps)
    assert torch.equal(found, kernels.packed_dropout(*arguments))


def test_more_sequences_than_one_step_of_the_search(device):
    lengths = [2] * (packed.FAN + 3)
    x, keywords = (
        make_x(lengths, 3, device),
        {"key": high_key_for(lengths, device, 5), "stream": 17},
    )
    found = packed_dropout(x, offsets(lengths, device), 0.5, **keywords, impl="triton")
    expected = packed_dropout(x, offsets(lengths, device), 0.5, **keywords, impl="reference")
    assert torch.equal(found, expected)


def test_bfloat16_is_scaled_in_float32(device):
    x, keywords = (
        make_x(LENGTHS, 6, device),
        {"key": high_key_for(LENGTHS, device, 5), "stream": 16},
    )
    narrow = x.bfloat16()
    indptr = offsets(LENGTHS, device)
    found = packed_dropout(narrow, indptr, 0.3, **keywords, impl="triton")
    wide = packed_dropout(narrow.float(), indptr, 0.3, **keywords, impl="triton")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wide.bfloat16(), rtol=2**-7, atol=0)  # some Tritons truncate


def test_the_gradient_has_the_same_mask(device):
    x = make_x(LENGTHS, 5, device).requires_grad_()
    keywords = {"key": high_key_for(LENGTHS, device, 5), "stream": 16, "impl": "triton"}
    out = packed_dropout(x, offsets(LENGTHS, device), 0.4, **keywords)
    (grad_x,) = torch.autograd.grad(out.sum(), x)  # an expanded gradient
    torch.testing.assert_close(grad_x, (out != 0) / 0.6, rtol=1e-6, atol=0)


def test_columns_of_a_wider_tensor(device):
    x = make_x(LENGTHS, 14, device)[:, ::2]
    keywords = {"key": high_key_for(LENGTHS, device, 5), "stream": 16, "impl": "triton"}
    out = packed_dropout(x, offsets(LENGTHS, device), 0.4, **keywords)
    expected = packed_dropout(x.contiguous(), offsets(LENGTHS, device), 0.4, **keywords)
    assert torch.equal(out, expected)


def test_an_empty_batch(device):
    x = torch.zeros(0, 4, device=device)
    keywords = {"key": high_key_for((), device, 5), "stream": 16, "impl": "triton"}
    assert packed_dropout(x, offsets((), device), 0.3, **keywords).shape == (0, 4)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    x, users = make_x((5, 2), 8, device).requires_grad_(), torch.arange(2, device=device)
    arguments = (x, offsets((5, 2), device), users, 0.3, -5, 2, 17, "triton")
    torch.library.opcheck(torch.ops.pdrec_fast.packed_dropout.default, arguments)


def test_compiles_without_a_graph_break(device):
    torch.use_deterministic_algorithms(False)
    x, indptr = make_x((5, 2), 8, device).requires_grad_(), offsets((5, 2), device)
    keywords = {"key": high_key_for((5, 2), device, 5), "stream": 16, "impl": "triton"}
    compiled = torch.compile(packed_dropout, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(x, indptr, 0.3, **keywords).sum(), x)
    eager = packed_dropout(x, indptr, 0.3, **keywords)
    assert torch.equal(found, torch.autograd.grad(eager.sum(), x)[0])


def test_choice_of_implementation(device):
    x, indptr = make_x((5, 2), 8, device), offsets((5, 2), device)
    keywords = {"key": high_key_for((5, 2), device, 5), "stream": 16}
    auto = packed_dropout(x, indptr, 0.3, **keywords)
    assert torch.equal(auto, packed_dropout(x, indptr, 0.3, **keywords, impl="triton"))
    with pytest.raises(BackendError, match=r"float32 and bfloat16, got torch.float64.*reference"):
        packed_dropout(x.double(), indptr, 0.3, **keywords, impl="triton")
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        packed_dropout(x, torch.tensor([0, 9, 7]), 0.3, **keywords, impl="triton")
