"""``packed_attention``: hand-made cases, accuracy against float64, dropout, and equal bits."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.reference.counter_rng import words
from tests.ops.packed._sequences import key_for, offsets

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
LENGTHS = (200, 33, 17, 17, 8, 5, 2, 2, 1, 1)
SHAPES = [(1, 64), (2, 32), (3, 17), (1, 16), (1, 128), (2, 1), (3, 5)]  # heads, e


def make_inputs(lengths, heads, e, dtype=torch.float32, layout="joint"):
    """q, k and v as a model has them (parts of one tensor), contiguous, or badly strided."""
    generator = torch.Generator().manual_seed(heads * 1000 + e)
    joint = torch.randn(sum(lengths), 3, heads, e, generator=generator, dtype=torch.float64)
    if layout == "transposed":
        joint = joint.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    parts = joint.to(dtype).unbind(1)
    if layout == "contiguous":
        parts = [part.contiguous() for part in parts]
    return [part.detach().requires_grad_() for part in parts]


def run(leaves, lengths, **keywords):
    """Output and gradients for a fixed direction."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = packed_attention(*leaves, offsets(lengths), **keywords)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]


def test_two_tokens_by_hand(impl):
    # Scores of the second query: 0 and 2 ln 3 / sqrt(4), so weights 1/4 and 3/4.
    q, k, v = torch.zeros(3, 2, 1, 4).unbind()
    q[:, 0, 0] = torch.tensor([5.0, 2.0])
    k[1, 0, 0] = math.log(3)
    v[:, 0, 1] = torch.tensor([4.0, 8.0])
    leaves = [part.requires_grad_() for part in (q, k, v)]
    out = packed_attention(*leaves, torch.tensor([0, 2]), impl=impl)
    torch.testing.assert_close(out[:, 0, 1], torch.tensor([4.0, 7.0]))
    assert not out[:, 0, [0, 2, 3]].any()
    grad_q, grad_k, grad_v = torch.autograd.grad(out[1, 0, 1], leaves)
    # The scores' gradients: 1/4 (4 - 7) and 3/4 (8 - 7).
    torch.testing.assert_close(grad_q[:, 0, 0], torch.tensor([0.0, 0.75 * math.log(3) / 2]))
    torch.testing.assert_close(grad_k[:, 0, 0], torch.tensor([-0.75, 0.75]))
    torch.testing.assert_close(grad_v[:, 0, 1], torch.tensor([0.25, 0.75]))


def test_a_single_token_takes_its_own_value_and_leaves_no_other_gradient(impl):
    leaves = make_inputs((1, 1), 2, 7)
    out, grad_q, grad_k, _ = run(leaves, (1, 1), impl=impl)
    assert torch.equal(out, leaves[2].detach())
    assert not grad_q.any()
    assert not grad_k.any()


def kept(length, heads, key, stream, p):
    """The mask as documented, a word at a time."""
    row_blocks = -(-length // 4)
    n_words = heads * length * row_blocks * 4
    word = words(key.seed, key.epoch, key.users.numpy(), n_words, stream)[0]
    mask = torch.zeros(heads, length, length, dtype=torch.bool)
    for h in range(heads):
        for i in range(length):
            for j in range(i + 1):
                block = (h * length + i) * row_blocks + j // 4
                mask[h, i, j] = word[4 * block + j % 4] >= round(p * 2**32)
    return mask


@pytest.mark.parametrize("length", [1, 3, 7, 37, 130])
def test_dropout_takes_the_documented_words(length, impl):
    """Equal scores and one-hot values: the output is the weights."""
    heads, p = 2, 0.3
    key = DropoutKey(2**64 - 3, 4, torch.tensor([17]))
    q = torch.zeros(length, heads, length)
    v = torch.eye(length)[:, None].expand(-1, heads, -1)
    indptr = torch.tensor([0, length])
    out = packed_attention(q, q, v, indptr, dropout=p, key=key, stream=21, impl=impl)
    uniform = 1 / torch.arange(1, length + 1)[None, :, None] / (1 - p)
    expected = (kept(length, heads, key, 21, p) * uniform).transpose(0, 1)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("layout", ["joint", "contiguous", "transposed"])
@pytest.mark.parametrize(("heads", "e"), SHAPES)
def test_as_accurate_as_eager(heads, e, layout, dropout, impl):
    leaves = make_inputs(LENGTHS, heads, e, layout=layout)
    keywords = {"dropout": dropout, "key": key_for(LENGTHS), "stream": 19}
    truth = run([leaf.double() for leaf in leaves], LENGTHS, impl="reference", **keywords)
    eager = run(leaves, LENGTHS, impl="reference", **keywords)
    found = run(leaves, LENGTHS, impl=impl, **keywords)
    for at, name in enumerate(("out", "q", "k", "v")):
        rtol, scale = 1e-5 if name == "out" else 1e-4, truth[at].abs().max()
        assert found[at].dtype == torch.float32
        torch.testing.assert_close(found[at].double(), truth[at], rtol=rtol, atol=rtol * scale)
        error = (found[at].double() - truth[at]).square().mean().sqrt()
        eager_error = (eager[at].double() - truth[at]).square().mean().sqrt()
        assert error <= 1.5 * eager_error + 3e-8 * scale, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_the_reference(dropout):
    lengths = (4, 2, 1)
    leaves = make_inputs(lengths, 2, 3, dtype=torch.float64)

    def attention(q, k, v):
        return packed_attention(
            q, k, v, offsets(lengths), dropout=dropout, key=key_for(lengths), impl="reference"
        )

    assert torch.autograd.gradcheck(attention, leaves)


@needs_extension
@pytest.mark.parametrize(("heads", "e"), [(1, 64), (3, 17)])
def test_the_bits_depend_on_neither_threads_nor_instruction_set(heads, e):
    lengths = (200,) * 12 + LENGTHS  # enough work for several threads
    leaves = make_inputs(lengths, heads, e)
    before = build_info()["isa"]
    results = []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            results.append(run(leaves, lengths, dropout=0.2, key=key_for(lengths), impl="cpp"))
    torch.set_num_threads(1)
    extension.set_isa(before)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)


def test_a_sequence_does_not_depend_on_its_batch(impl):
    leaves = make_inputs(LENGTHS, 2, 12)
    key = key_for(LENGTHS)
    together = run(leaves, LENGTHS, dropout=0.3, key=key, impl=impl)
    parts = [leaf.detach().split(LENGTHS) for leaf in leaves]
    order = [3, 9, 0, 7, 5]
    lengths = [LENGTHS[at] for at in order]
    out = packed_attention(
        *(torch.cat([part[at] for at in order]) for part in parts),
        offsets(lengths),
        dropout=0.3,
        key=DropoutKey(key.seed, key.epoch, key.users[order]),
        impl=impl,
    )
    expected = torch.cat([together[0].split(LENGTHS)[at] for at in order])
    assert torch.equal(out, expected) or impl == "reference"
    torch.testing.assert_close(out, expected)


def test_what_is_not_finite_stays_in_its_sequence(impl):
    lengths = (9, 20, 3)
    leaves = make_inputs(lengths, 1, 16)
    clean = run(leaves, lengths, impl=impl)
    for leaf, value in zip(leaves, (torch.nan, torch.inf, -torch.inf), strict=True):
        with torch.no_grad():
            leaf[9:29] = value
    for found, expected in zip(run(leaves, lengths, impl=impl), clean, strict=True):
        assert found[9:29].isnan().any()
        assert torch.equal(found[:9], expected[:9])
        assert torch.equal(found[29:], expected[29:])


def test_scores_far_beyond_the_range_of_exp(impl):
    leaves = make_inputs((40, 3), 1, 16)
    scaled = [8 * leaves[0].detach(), 8 * leaves[1].detach(), leaves[2].detach()]
    truth = run([leaf.double() for leaf in scaled], (40, 3), impl="reference")
    for found, true in zip(run(scaled, (40, 3), impl=impl), truth, strict=True):
        atol = 1e-4 * float(true.abs().max())  # scores reach 200
        torch.testing.assert_close(found.double(), true, rtol=0, atol=atol)
    scaled[0] *= 1e6
    assert all(found.isfinite().all() for found in run(scaled, (40, 3), impl=impl))


def mask_of(impl, *, p=0.25, seed=1, epoch=0, user=0, stream=16, head=0):
    length = 120
    q = torch.zeros(length, 2, length)
    v = torch.eye(length)[:, None].expand(-1, 2, -1)
    key = DropoutKey(seed, epoch, torch.tensor([user]))
    indptr = torch.tensor([0, length])
    out = packed_attention(q, q, v, indptr, dropout=p, key=key, stream=stream, impl=impl)
    return out[:, head].gt(0)[torch.ones(length, length).tril().bool()]


def test_dropout_keeps_its_share(impl):
    for p in (0.1, 0.5):
        mask = torch.cat([mask_of(impl, p=p, user=user) for user in range(4)])
        spread = math.sqrt(p * (1 - p) / len(mask))
        assert abs(mask.float().mean() - (1 - p)) < 4 * spread


def test_dropout_is_new_for_every_part_of_the_key(impl):
    masks = {"base": mask_of(impl), "head": mask_of(impl, head=1)}
    for part, value in {"seed": 2, "epoch": 1, "user": 1, "stream": 17}.items():
        masks[part] = mask_of(impl, **{part: value})
    assert torch.equal(masks["base"], mask_of(impl))
    for name, mask in masks.items():
        if name != "base":
            correlation = np.corrcoef(masks["base"].numpy(), mask.numpy())[0, 1]
            assert abs(correlation) < 4 / math.sqrt(len(mask)), name


@pytest.mark.parametrize("lengths", [(), (0,)])
def test_without_tokens(lengths, impl):
    out = packed_attention(
        *make_inputs(lengths, 2, 5), offsets(lengths), dropout=0.3, key=key_for(lengths), impl=impl
    )
    assert out.shape == (0, 2, 5)


def test_sequences_without_tokens_among_others(impl):
    leaves, key = make_inputs((3, 1), 2, 5), key_for((3, 0, 1, 0))
    keywords = {"dropout": 0.3, "impl": impl}
    found = run(leaves, (3, 0, 1, 0), key=key, **keywords)
    key = DropoutKey(key.seed, key.epoch, key.users[[0, 2]])
    for one, other in zip(found, run(leaves, (3, 1), key=key, **keywords), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("needed", range(3))
def test_a_gradient_for_one_input_alone(needed, impl):
    leaves = [leaf.detach() for leaf in make_inputs((5, 2), 2, 8)]
    expected = run(leaves, (5, 2), impl=impl)
    leaves[needed].requires_grad_()
    out = packed_attention(*leaves, offsets((5, 2)), impl=impl)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).float()
    (found,) = torch.autograd.grad(out, leaves[needed], direction)
    assert torch.equal(found, expected[1 + needed])


def test_expanded_upstream_gradient(impl):
    leaves = make_inputs((5, 2), 2, 8)
    out = packed_attention(*leaves, offsets((5, 2)), impl=impl)
    ones = torch.autograd.grad(out, leaves, torch.ones_like(out), retain_graph=True)
    for found, expected in zip(torch.autograd.grad(out.sum(), leaves), ones, strict=True):
        assert torch.equal(found, expected)


@needs_extension
def test_custom_op_contract():
    torch.use_deterministic_algorithms(False)
    leaves = make_inputs((5, 2), 2, 8, layout="contiguous")
    arguments = (*leaves, offsets((5, 2)), torch.arange(2), 0.3, -5, 2, 17)
    torch.library.opcheck(torch.ops.pdrec_fast.packed_attention.default, arguments)


@needs_extension
def test_compiles_without_a_graph_break():
    torch.use_deterministic_algorithms(False)
    leaves, key = make_inputs((5, 2), 2, 8), key_for((5, 2))
    arguments = {"dropout": 0.3, "key": key, "impl": "cpp"}
    compiled = torch.compile(packed_attention, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*leaves, offsets((5, 2)), **arguments).sum(), leaves)
    eager = packed_attention(*leaves, offsets((5, 2)), **arguments)
    for found, expected in zip(actual, torch.autograd.grad(eager.sum(), leaves), strict=True):
        assert torch.equal(found, expected)


@needs_extension
def test_autocast_computes_in_float32():
    leaves = [leaf.detach().bfloat16() for leaf in make_inputs((5, 2), 2, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        out = packed_attention(*leaves, offsets((5, 2)), impl="cpp")
        mixed = packed_attention(leaves[0].float(), *leaves[1:], offsets((5, 2)), impl="cpp")
    expected = packed_attention(*(leaf.float() for leaf in leaves), offsets((5, 2)), impl="cpp")
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    assert torch.equal(mixed, expected)


@needs_extension
def test_auto_takes_the_extension_and_float64_the_reference():
    leaves = make_inputs((5, 2), 2, 8)
    auto = packed_attention(*leaves, offsets((5, 2)))
    assert torch.equal(auto, packed_attention(*leaves, offsets((5, 2)), impl="cpp"))
    wide = [leaf.double() for leaf in leaves]
    assert packed_attention(*wide, offsets((5, 2))).dtype == torch.float64
    with pytest.raises(BackendError, match=r"float32, got torch.float64.*reference"):
        packed_attention(*wide, offsets((5, 2)), impl="cpp")


@pytest.mark.parametrize("indptr", [[1, 7], [0, 6], [0, 9], [0, 5, 3, 7]])
def test_bounds_outside_the_tokens_are_refused(indptr, impl):
    leaves = make_inputs((7,), 1, 4)
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        packed_attention(*leaves, torch.tensor(indptr), impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(7, 1, 3)}, r"q and k must have the same dtype and shape .*\(7, 1, 3\)"),
        ({"v": torch.zeros(7, 1, 4).double()}, r"q and v .* torch.float64"),
        ({"indptr": torch.tensor([0.0, 7.0])}, r"indptr must be an int64 tensor"),
        ({"indptr": torch.zeros(0, dtype=torch.int64)}, r"indptr must be .* shape \(0,\)"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"dropout": 0.1, "key": None}, r"dropout=0.1 needs a key"),
        ({"dropout": 0.1, "key": key_for((1, 1))}, r"one user for each of 1 sequences, got 2"),
        ({"stream": -1}, r"stream must lie in .* got -1"),
        ({"impl": "cuda"}, r"unknown impl='cuda'.*cpp"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict.fromkeys("qkv", torch.zeros(7, 1, 4)) | {"indptr": torch.tensor([0, 7])}
    with pytest.raises(ValueError, match=message):
        packed_attention(**(arguments | change))


@pytest.mark.parametrize(
    ("seed", "epoch", "users", "message"),
    [
        (-1, 0, torch.arange(2), "seed must lie in"),
        (2**64, 0, torch.arange(2), "seed must lie in"),
        (0, 2**32, torch.arange(2), "epoch must lie in"),
        (0, 0, torch.tensor([0, -1]), "users must lie in .* got -1 in row 1"),
        (0, 0, torch.zeros(2), "users must be an int64 tensor .* torch.float32"),
    ],
)
def test_a_bad_key_is_refused(seed, epoch, users, message):
    with pytest.raises(ValueError, match=message):
        DropoutKey(seed, epoch, users)
