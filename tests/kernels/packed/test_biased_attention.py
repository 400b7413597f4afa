"""``biased_attention`` in Triton: accuracy, buckets, contracts; compiled where there is a GPU."""

import pytest
import torch

from pdrec_fast.operands import AttentionBiases
from tests.ops.packed._sequences import (
    biases_for,
    high_key_for,
    offsets,
    run_biased,
    times_for,
    vectors_for,
)

pytest.importorskip("triton", reason="Triton is not installed")

from pdrec_fast.encoders.times import bucket_begins
from pdrec_fast.kernels.triton.packed import biased_attention as kernels
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.biased_attention import biased_attention
from pdrec_fast.reference.packed.biased_attention import bucket_of

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
LENGTHS = (18, 9, 0, 2, 1)
NAMES = "out", "q", "k", "v", "distance", "time"
both_kinds = pytest.mark.parametrize("pointwise", [True, False], ids=["pointwise", "softmax"])


def moved(biases, device, dtype=None):
    distance, time = (x.to(device, dtype or x.dtype) for x in biases[:2])
    return AttentionBiases(distance, time, *(x.to(device) for x in biases[2:]))


def run(vectors, lengths, biases, device, **keywords):
    vectors = [x.detach().to(device) for x in vectors]
    keywords |= {"key": high_key_for(lengths, device), "impl": "triton"}
    return run_biased(vectors, lengths, moved(biases, device), **keywords)


def run_reference(vectors, lengths, biases, device, dtype=torch.float32, **keywords):
    """On the CPU: cuBLAS would have to be told to be deterministic."""
    keywords |= {"key": high_key_for(lengths, "cpu"), "impl": "reference"}
    vectors, biases = [x.to(dtype) for x in vectors], moved(biases, "cpu", dtype)
    return [x.to(device) for x in run_biased(vectors, lengths, biases, **keywords)]


def rms(x):
    return x.double().square().mean().sqrt()


@pytest.mark.parametrize(
    ("heads", "e", "order"), [(1, 16, "ascending"), (2, 5, "any"), (1, 40, "equal")]
)
@both_kinds
def test_as_accurate_as_eager(pointwise, heads, e, order, device):
    vectors = vectors_for(LENGTHS, heads, e)
    biases = biases_for(LENGTHS, n_distances=30, order=order)
    keywords = {"pointwise": pointwise, "dropout": 0.0 if pointwise else 0.4, "stream": 2**31 + 19}
    truth = run_reference(vectors, LENGTHS, biases, device, torch.float64, **keywords)
    eager = run_reference(vectors, LENGTHS, biases, device, **keywords)
    for at, found in enumerate(run(vectors, LENGTHS, biases, device, **keywords)):
        rtol, scale = 1e-5 if at == 0 else 1e-4, truth[at].abs().max()
        if NAMES[at] == "time":  # a softmax does not see what is added to all
            scale = max(scale, truth[4].abs().max())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth[at], rtol=rtol, atol=rtol * scale)
        error, eager_error = rms(found - truth[at]), rms(eager[at] - truth[at])
        assert error <= 1.5 * eager_error + 1e-7 * scale, NAMES[at]


@pytest.mark.parametrize("given", ["distance", "time"])
@both_kinds
def test_one_bias_alone(pointwise, given, device):
    vectors = [x.detach() for x in vectors_for(LENGTHS, 2, 8)]
    biases = biases_for(LENGTHS)
    if given == "distance":
        biases = AttentionBiases(biases.distance)
    else:
        biases = biases._replace(distance=None)
    expected = biased_attention(
        *vectors, offsets(LENGTHS), biases, pointwise=pointwise, impl="reference"
    )
    there = AttentionBiases(*(None if x is None else x.to(device) for x in biases))
    leaves = [x.to(device).requires_grad_() for x in vectors]
    out = biased_attention(
        *leaves, offsets(LENGTHS, device), there, pointwise=pointwise, impl="triton"
    )
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-5, atol=1e-6)
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), leaves))


@both_kinds
def test_bfloat16_is_computed_in_float32(pointwise, device):
    vectors = [x.bfloat16() for x in vectors_for(LENGTHS, 2, 16)]
    biases, keywords = biases_for(LENGTHS), {"pointwise": pointwise}
    truth = run_reference(vectors, LENGTHS, biases, device, torch.float64, **keywords)
    for at, found in enumerate(run(vectors, LENGTHS, biases, device, **keywords)):
        assert found.dtype == (torch.bfloat16 if at < 4 else torch.float32)
        scale = float(truth[at].abs().max())
        torch.testing.assert_close(found.double(), truth[at], rtol=1.6e-2, atol=scale / 60)


@pytest.mark.parametrize(("block", "num_warps"), kernels.CONFIGS)
@both_kinds
def test_every_block_size_gives_the_same(pointwise, block, num_warps, device):
    lengths, p = (33, 3), 0.0 if pointwise else 0.3
    vectors = [x.detach().to(device) for x in vectors_for(lengths, 1, 16)]
    biases = moved(biases_for(lengths), device)
    key = high_key_for(lengths, device)
    words = PackedDropout(offsets(lengths, device), key.users, p, -3, 2**32 - 2, 17)
    options = {"block": block, "num_warps": num_warps}
    keywords = {"pointwise": pointwise, "dropout": p, "stream": 17}
    expected = run_reference([x.cpu() for x in vectors], lengths, biases, device, **keywords)
    out, softmax = kernels.biased_attention(*vectors, words, biases, pointwise, **options)
    direction = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    found = kernels.biased_attention_backward(
        direction.to(out), *vectors, softmax, words, biases, pointwise, **options
    )
    for one, other in zip((out, *found), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["ascending", "descending", "huge", "any"])
def test_buckets_are_those_of_the_reference(order, device):
    """Each pair's bucket is read back from what its bias adds."""
    length = 20
    times, begins = times_for((length,), order), bucket_begins(200)
    expected = bucket_of((times[:, None] - times).abs(), begins).tril()
    numbers = torch.arange(200.0) + 40.0  # SiLU of which is itself
    biases = AttentionBiases(None, numbers, times, begins)
    biases = AttentionBiases(*(None if x is None else x.to(device) for x in biases))
    q = torch.zeros(length, 1, length, device=device)
    v = torch.eye(length, device=device).unsqueeze(1)
    out = biased_attention(
        *(q, q, v, offsets((length,), device), biases), pointwise=True, impl="triton"
    )
    n_keys = torch.arange(1, length + 1).unsqueeze(1)
    assert torch.equal((out[:, 0].cpu() * n_keys - 40).round().long().tril(), expected)


@both_kinds
def test_a_sequence_does_not_depend_on_its_batch_nor_a_query_on_the_future(pointwise, device):
    vectors = [x.detach().to(device) for x in vectors_for(LENGTHS, 1, 12)]
    biases = moved(biases_for(LENGTHS), device)
    keywords = {"pointwise": pointwise, "impl": "triton"}
    together = biased_attention(*vectors, offsets(LENGTHS, device), biases, **keywords)
    order = [4, 0, 1]
    *parts, times = (
        torch.cat([x.split(LENGTHS)[at] for at in order]) for x in (*vectors, biases.times)
    )
    lengths = [LENGTHS[at] for at in order]
    biases = biases._replace(times=times)
    out = biased_attention(*parts, offsets(lengths, device), biases, **keywords)
    assert torch.equal(out, torch.cat([together.split(LENGTHS)[at] for at in order]))
    for x in parts:
        x[8:19] = 1e4  # of the second, which begins with token 1
    times = biases.times.clone()
    times[8:19] += 1e9
    biases = biases._replace(times=times)
    after = biased_attention(*parts, offsets(lengths, device), biases, **keywords)
    assert torch.equal(after[:8], out[:8])
    assert torch.equal(after[19:], out[19:])


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_sums_of_biases_keep_their_digits_whatever_their_size(scale, device):
    """Their unit follows the size of gradients and values."""
    vectors, biases = [x.detach() for x in vectors_for(LENGTHS, 1, 8)], biases_for(LENGTHS)
    vectors[2] = vectors[2] * scale
    found = run(vectors, LENGTHS, biases, device, pointwise=True)
    truth = run_reference(vectors, LENGTHS, biases, device, torch.float64, pointwise=True)
    for at in (4, 5):
        atol = 1e-6 * float(truth[at].abs().max())
        torch.testing.assert_close(found[at].double(), truth[at], rtol=1e-5, atol=atol)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("sick", range(3))
def test_what_is_not_finite_makes_the_biases_gradients_so(sick, device):
    lengths = (3, 5, 2)
    vectors = [x.detach().clone() for x in vectors_for(lengths, 1, 16)]
    clean = run(vectors, lengths, biases_for(lengths), device, pointwise=True)
    vectors[sick][3:8] = torch.nan
    found = run(vectors, lengths, biases_for(lengths), device, pointwise=True)
    assert found[4].isnan().all()
    assert found[5].isnan().all()
    for one, other in zip(found[:4], clean[:4], strict=True):
        assert torch.equal(one[:3], other[:3])
        assert torch.equal(one[8:], other[8:])


@both_kinds
def test_without_gradient_and_without_tokens(pointwise, device):
    """Zeros flow back: the sums' unit is that of no number. No tokens: nothing is launched."""
    vectors, biases = [0 * x.detach() for x in vectors_for((5,), 1, 8)], biases_for((5,))
    found = run(vectors, (5,), biases, device, pointwise=pointwise)
    assert not found[4].any()
    assert not found[5].any()
    found = run(vectors_for((0,), 2, 5), (0,), biases_for((0,)), device, pointwise=pointwise)
    assert found[0].shape == (0, 2, 5)
    assert not found[5].any()


@both_kinds
def test_two_runs_have_equal_bits(pointwise, device):
    vectors, biases = vectors_for((17, 2), 2, 8), biases_for((17, 2))
    first, second = (run(vectors, (17, 2), biases, device, pointwise=pointwise) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    leaves = [x.detach().to(device).contiguous() for x in vectors_for((5, 2), 1, 4)]
    biases = moved(biases_for((5, 2)), device)
    ready = [x.requires_grad_() for x in (*leaves, *biases[:2])]
    words = offsets((5, 2), device), torch.arange(2, device=device), 0.3, -5, 2, 17
    arguments = (*ready[:3], *words, *ready[3:], *biases[2:], False, "triton")
    torch.library.opcheck(torch.ops.pdrec_fast.biased_attention.default, arguments)


def test_bounds_on_the_host_are_checked(device):
    vectors = [x.detach().to(device) for x in vectors_for((7,), 1, 4)]
    biases = moved(biases_for((7,)), device)
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        biased_attention(*vectors, torch.tensor([0, 9]), biases, impl="triton")


def test_users_alone_decide_what_is_dropped(device):
    vectors, biases = [x.detach() for x in vectors_for((20,), 1, 8)], biases_for((20,))
    arguments = [x.to(device) for x in vectors], moved(biases, device)
    outs = [
        biased_attention(
            *arguments[0], offsets((20,), device), arguments[1],
            dropout=0.5, key=DropoutKey(3, 1, torch.tensor([user], device=device)), impl="triton",
        )
        for user in (1, 1, 2)
    ]  # fmt: skip
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
