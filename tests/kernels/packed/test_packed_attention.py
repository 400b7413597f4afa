"""``packed_attention`` in Triton: accuracy, masks and contracts; compiled where there is a GPU."""

import functools
import math

import pytest
import torch

from tests.ops.packed._sequences import high_key_for, offsets

pytest.importorskip("triton", reason="Triton is not installed")

from pdrec_fast.errors import BackendError
from pdrec_fast.kernels.triton.packed import packed_attention as kernels
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.packed import _sequences as packed
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_attention import packed_attention

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
LENGTHS = (37, 16, 9, 0, 2, 1)
SHAPES = [(1, 16, "joint"), (2, 5, "transposed"), (1, 48, "contiguous")]  # heads, e, layout
triton_attention = functools.partial(packed_attention, impl="triton")


def make_inputs(lengths, heads, e, device, dtype=torch.float32, layout="joint"):
    """q, k and v as a model has them (parts of one tensor), contiguous, or badly strided."""
    generator = torch.Generator().manual_seed(heads * 1000 + e)
    joint = torch.randn(sum(lengths), 3, heads, e, generator=generator).to(device, dtype)
    if layout == "transposed":
        joint = joint.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    parts = joint.unbind(1)
    return [part.contiguous() for part in parts] if layout == "contiguous" else list(parts)


def run(parts, lengths, attention=triton_attention, **keywords):
    """Output and gradients for a fixed direction."""
    leaves = [part.detach().requires_grad_() for part in parts]
    out = attention(*leaves, offsets(lengths, leaves[0].device), **keywords)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]


def run_reference(parts, lengths, **keywords):
    """On the CPU: cuBLAS would have to be told to be deterministic."""
    if "key" in keywords:
        key = keywords["key"]
        keywords["key"] = DropoutKey(key.seed, key.epoch, key.users.cpu())
    attention = functools.partial(packed_attention, impl="reference")
    found = run([part.cpu() for part in parts], lengths, attention, **keywords)
    return [result.to(parts[0].device) for result in found]


def rms(x):
    return x.double().square().mean().sqrt()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("heads", "e", "layout"), SHAPES)
def test_as_accurate_as_eager(heads, e, layout, dropout, device):
    parts = make_inputs(LENGTHS, heads, e, device, layout=layout)
    keywords = {"dropout": dropout, "key": high_key_for(LENGTHS, device), "stream": 2**31 + 19}
    truth = run_reference([part.double() for part in parts], LENGTHS, **keywords)
    eager = run_reference(parts, LENGTHS, **keywords)
    for at, found in enumerate(run(parts, LENGTHS, **keywords)):
        name = ("out", "q", "k", "v")[at]
        rtol, scale = 1e-5 if name == "out" else 1e-4, truth[at].abs().max()
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), truth[at], rtol=rtol, atol=rtol * scale)
        assert rms(found - truth[at]) <= 1.5 * rms(eager[at] - truth[at]) + 3e-8 * scale, name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_bfloat16_is_computed_in_float32(dropout, device):
    parts = make_inputs(LENGTHS, 2, 16, device, dtype=torch.bfloat16)
    keywords = {"dropout": dropout, "key": high_key_for(LENGTHS, device)}
    truth = run_reference([part.double() for part in parts], LENGTHS, **keywords)
    eager = run_reference(parts, LENGTHS, **keywords)
    ulps = 1 if device.type == "cuda" else 2  # the interpreter truncates where a GPU rounds
    for at, found in enumerate(run(parts, LENGTHS, **keywords)):
        assert found.dtype == torch.bfloat16
        scale = truth[at].abs().max()
        torch.testing.assert_close(found.double(), truth[at], rtol=1.6e-2, atol=float(scale) / 60)
        assert rms(found - truth[at]) <= ulps * rms(eager[at] - truth[at]) + 1e-4 * scale


@pytest.mark.parametrize(("block", "num_warps"), kernels.CONFIGS)
def test_every_block_size_gives_the_same(block, num_warps, device):
    parts = make_inputs((39, 3), 1, 16, device)
    users = high_key_for((39, 3), device).users
    words = PackedDropout(offsets((39, 3), device), users, 0.3, -5, 2, 17)
    options = {"block": block, "num_warps": num_warps}
    key = DropoutKey(2**64 - 5, 2, users)
    expected = run_reference(parts, (39, 3), dropout=0.3, key=key, stream=17)
    out, softmax = kernels.packed_attention(*parts, words, **options)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(out.shape, generator=generator).to(device)
    gradients = kernels.packed_attention_backward(grad_out, *parts, softmax, words, **options)
    for one, other in zip((out, *gradients), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 35])
def test_the_masks_are_those_of_the_cpu(length, device):
    """Equal scores and one-hot values: the output is the weights."""
    q = torch.zeros(length, 2, length)
    v = torch.eye(length)[:, None].expand(-1, 2, -1)
    arguments = [q, q, v, torch.tensor([0, length])]
    keywords = {"dropout": 0.3, "key": DropoutKey(11, 4, torch.tensor([17])), "stream": 21}
    found = triton_attention(*(x.to(device) for x in arguments), **keywords).cpu()
    expected = packed_attention(*arguments, **keywords)
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected)


def test_a_single_token_takes_its_own_value_and_leaves_no_other_gradient(device):
    parts = make_inputs((1, 1), 2, 7, device)
    out, grad_q, grad_k, _ = run(parts, (1, 1))
    assert torch.equal(out, parts[2])
    assert not grad_q.any()
    assert not grad_k.any()


def test_a_sequence_does_not_depend_on_its_batch(device):
    parts, key = make_inputs(LENGTHS, 1, 12, device), high_key_for(LENGTHS, device)
    together = run(parts, LENGTHS, dropout=0.3, key=key)
    order = [4, 0, 2]
    out = triton_attention(
        *(torch.cat([part.split(LENGTHS)[at] for at in order]) for part in parts),
        offsets([LENGTHS[at] for at in order], device),
        dropout=0.3,
        key=DropoutKey(key.seed, key.epoch, key.users[order]),
    )
    assert torch.equal(out, torch.cat([together[0].split(LENGTHS)[at] for at in order]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_in_its_sequence(device):
    lengths, sick = (9, 20, 3), slice(9, 29)
    parts = make_inputs(lengths, 1, 16, device, layout="contiguous")
    clean = run(parts, lengths)
    for part, value in zip(parts, (torch.nan, torch.inf, -torch.inf), strict=True):
        part[sick] = value
    for found, expected in zip(run(parts, lengths), clean, strict=True):
        assert found[sick].isnan().any()
        assert torch.equal(found[: sick.start], expected[: sick.start])
        assert torch.equal(found[sick.stop :], expected[sick.stop :])


def test_scores_far_beyond_the_range_of_exp(device):
    q, k, v = make_inputs((40, 3), 1, 16, device)
    truth = run_reference([8 * q.double(), 8 * k.double(), v.double()], (40, 3))
    for found, true in zip(run([8 * q, 8 * k, v], (40, 3)), truth, strict=True):
        atol = 1e-4 * float(true.abs().max())  # scores reach 200
        torch.testing.assert_close(found.double(), true, rtol=0, atol=atol)
    assert all(found.isfinite().all() for found in run([8e6 * q, 8 * k, v], (40, 3)))


@pytest.mark.parametrize("lengths", [(), (0,)])
def test_without_tokens(lengths, device):
    parts = make_inputs(lengths, 2, 5, device)
    key = high_key_for(lengths, device)
    for found in run(parts, lengths, dropout=0.3, key=key):
        assert found.shape == (0, 2, 5)


def test_two_runs_have_equal_bits_and_an_expanded_gradient_is_taken(device):
    parts = make_inputs((35, 2), 1, 8, device)
    leaves = [part.detach().requires_grad_() for part in parts]
    keywords = {"dropout": 0.3, "key": high_key_for((35, 2), device)}
    out = triton_attention(*leaves, offsets((35, 2), device), **keywords)
    ones = torch.autograd.grad(out, leaves, torch.ones_like(out), retain_graph=True)
    for found, expected in zip(torch.autograd.grad(out.sum(), leaves), ones, strict=True):
        assert torch.equal(found, expected)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    leaves = make_inputs((5, 2), 1, 4, device, layout="contiguous")
    leaves = [leaf.requires_grad_() for leaf in leaves]
    users = torch.arange(2, device=device)
    arguments = (*leaves, offsets((5, 2), device), users, 0.3, -5, 2, 17, "triton")
    torch.library.opcheck(torch.ops.pdrec_fast.packed_attention.default, arguments)


def test_compiles_without_a_graph_break(device):
    torch.use_deterministic_algorithms(False)
    parts, keywords = make_inputs((5, 2), 2, 8, device), {"dropout": 0.3}
    keywords["key"] = high_key_for((5, 2), device)
    compiled = torch.compile(triton_attention, fullgraph=True, backend="aot_eager")
    eager = run(parts, (5, 2), **keywords)
    for found, expected in zip(run(parts, (5, 2), compiled, **keywords), eager, strict=True):
        assert torch.equal(found, expected)


def test_autocast(device):
    """The CPU's rule computes in float32; on a GPU the type of the linear layers stays."""
    parts = [part.bfloat16() for part in make_inputs((5, 2), 2, 8, device)]
    with torch.autocast(device.type, torch.bfloat16):
        out = triton_attention(*parts, offsets((5, 2), device))
    assert out.dtype == (torch.bfloat16 if device.type == "cuda" else torch.float32)


def test_auto_takes_triton_on_a_gpu_alone(device):
    parts, indptr = make_inputs((5, 2), 2, 8, device), offsets((5, 2), device)
    auto = packed_attention(*parts, indptr)
    impl = "triton" if device.type == "cuda" else "auto"
    assert torch.equal(auto, packed_attention(*parts, indptr, impl=impl))
    torch.testing.assert_close(auto, triton_attention(*parts, indptr))
    with pytest.raises(BackendError, match=r"float32 and bfloat16, got torch.float64.*reference"):
        triton_attention(*(part.double() for part in parts), indptr)


def test_on_a_cpu_the_reference_comes_before_the_interpreter(monkeypatch):
    monkeypatch.setattr(packed, "extension_problem", "it is not built")
    parts, indptr = make_inputs((20, 2), 2, 8, "cpu"), offsets((20, 2), "cpu")
    expected = packed_attention(*parts, indptr, impl="reference")
    assert torch.equal(packed_attention(*parts, indptr), expected)


def test_without_a_gpu_or_its_interpreter_triton_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    parts = make_inputs((5, 2), 2, 8, "cpu")
    with pytest.raises(BackendError, match=r"run on a GPU.*usable here: \["):
        triton_attention(*parts, offsets((5, 2), "cpu"))


def test_bounds_on_the_host_are_checked(device):
    parts = make_inputs((7,), 1, 4, device)
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        triton_attention(*parts, torch.tensor([0, 9]))


def test_dropout_keeps_its_share(device):
    length, p = 48, 0.3
    q = torch.zeros(length, 2, length, device=device)
    v = torch.eye(length, device=device)[:, None].expand(-1, 2, -1)
    key = DropoutKey(3, 0, torch.tensor([1], device=device))
    out = triton_attention(q, q, v, torch.tensor([0, length]), dropout=p, key=key)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    kept = (out.cpu() > 0).transpose(0, 1)[:, seen].double()
    assert abs(kept.mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / kept.numel())
