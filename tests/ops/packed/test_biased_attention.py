"""``biased_attention``: its formula pair by pair, accuracy against float64, and equal bits."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.encoders.times import bucket_begins
from pdrec_fast.operands import AttentionBiases
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.biased_attention import biased_attention
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.reference.counter_rng import words
from pdrec_fast.reference.packed.biased_attention import bucket_of
from tests.ops.packed._sequences import (
    biases_for,
    key_for,
    offsets,
    run_biased,
    times_for,
    vectors_for,
)

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
LENGTHS = (200, 33, 17, 17, 8, 5, 0, 2, 1, 1, 0)
BUCKETS = 40
both_kinds = pytest.mark.parametrize("pointwise", [True, False], ids=["pointwise", "softmax"])
NAMES = "out", "q", "k", "v", "distance", "time"


def of_pairs(vectors, lengths, biases, *, pointwise, p=0.0, key=None, stream=16):
    """The formula, with the logarithm that buckets are defined by."""
    q, k, v = (x.double() for x in vectors)
    out, first = torch.zeros_like(q), 0
    for b, length in enumerate(lengths):
        for h, i in np.ndindex(q.shape[1], length):
            scores = torch.zeros(i + 1, dtype=torch.float64)
            for j in range(i + 1):
                scale = 1.0 if pointwise else q.shape[2] ** -0.5
                scores[j] = scale * (q[first + i, h] @ k[first + j, h])
                if biases.distance is not None:
                    scores[j] += biases.distance[min(i - j, len(biases.distance) - 1)]
                if biases.time is not None:
                    between = abs(float(biases.times[first + i]) - float(biases.times[first + j]))
                    bucket = int(math.log(max(between, 1.0)) / 0.301)
                    scores[j] += biases.time[min(bucket, len(biases.time) - 1)]
            weights = scores * scores.sigmoid() / (i + 1) if pointwise else scores.softmax(0)
            if p:
                row, user = -(-length // 4) * 4, key.users[b : b + 1].numpy()
                drawn = words(key.seed, key.epoch, user, q.shape[1] * length * row, stream)[0]
                drawn = drawn[(h * length + i) * row :][: i + 1]
                weights = weights * (drawn >= round(p * 2**32)) / (1 - p)
            out[first + i, h] = weights @ v[first : first + i + 1, h]
        first += length
    return out


@pytest.mark.parametrize("given", ["both", "distance", "time", "none"])
@both_kinds
def test_the_formula(pointwise, given, impl):
    lengths = (9, 0, 3, 1)
    vectors = [x.detach() for x in vectors_for(lengths, 2, 3)]
    biases = biases_for(lengths, n_distances=5, n_buckets=30)
    if given != "both":
        keep = {"distance": (0,), "time": (1, 2, 3), "none": ()}[given]
        biases = AttentionBiases(*(x if at in keep else None for at, x in enumerate(biases)))
    p, key = (0.0 if pointwise else 0.4), key_for(lengths)
    out = biased_attention(
        *vectors, offsets(lengths), biases, pointwise=pointwise, dropout=p, key=key, impl=impl
    )
    expected = of_pairs(vectors, lengths, biases, pointwise=pointwise, p=p, key=key)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_pair_by_hand(impl):
    # The second query's scores: 2 + 0.5 + 0.25 of itself, 3 - 1 + 0.125 of the token before, which
    # lies 2 before it, in the bucket from 1.83 on.
    q, k, v = torch.zeros(3, 2, 1, 1).unbind()
    q[1], k[0], k[1] = 1.0, 3.0, 2.0
    v[:, 0, 0] = torch.tensor([1.0, 10.0])
    times = torch.tensor([5.0, 7.0], dtype=torch.float64)
    biases = AttentionBiases(
        torch.tensor([0.5, -1.0]), torch.tensor([0.25, 9.0, 0.125]), times, bucket_begins(3)
    )
    out = biased_attention(q, k, v, torch.tensor([0, 2]), biases, pointwise=True, impl=impl)
    silu = [x / (1 + math.exp(-x)) for x in (2.75, 2.125)]
    assert out[1].item() == pytest.approx((10 * silu[0] + silu[1]) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("heads", "e", "order"),
    [(1, 64, "ascending"), (2, 17, "descending"), (3, 1, "equal"), (1, 8, "huge"), (2, 32, "any")],
)
@both_kinds
def test_as_accurate_as_eager(pointwise, heads, e, order, impl):
    leaves = vectors_for(LENGTHS, heads, e)
    biases = biases_for(LENGTHS, n_distances=50, n_buckets=BUCKETS, order=order)
    keywords = {"pointwise": pointwise, "dropout": 0.0 if pointwise else 0.3}
    keywords |= {"key": key_for(LENGTHS), "stream": 19}
    wide = (
        [x.double() for x in leaves],
        biases._replace(distance=biases.distance.double(), time=biases.time.double()),
    )
    truth = run_biased(wide[0], LENGTHS, wide[1], impl="reference", **keywords)
    eager = run_biased(leaves, LENGTHS, biases, impl="reference", **keywords)
    found = run_biased(leaves, LENGTHS, biases, impl=impl, **keywords)
    for at, name in enumerate(NAMES):
        rtol, scale = 1e-5 if name == "out" else 1e-4, truth[at].abs().max()
        if name == "time":  # a softmax does not see what is added to all: of equal times it is 0
            scale = max(scale, truth[4].abs().max())
        assert found[at].dtype == torch.float32
        torch.testing.assert_close(found[at].double(), truth[at], rtol=rtol, atol=rtol * scale)
        error = (found[at].double() - truth[at]).square().mean().sqrt()
        eager_error = (eager[at].double() - truth[at]).square().mean().sqrt()
        assert error <= 1.5 * eager_error + 1e-7 * scale, name


@both_kinds
def test_gradients_of_the_reference(pointwise):
    lengths = (4, 0, 2, 1)
    leaves = vectors_for(lengths, 2, 3, dtype=torch.float64)
    biases = biases_for(lengths, n_distances=3, n_buckets=6, dtype=torch.float64)

    def attention(q, k, v, distance, time):
        given = AttentionBiases(distance, time, biases.times, biases.begins)
        dropout = 0.0 if pointwise else 0.3
        return biased_attention(
            *(q, k, v, offsets(lengths), given),
            **{"pointwise": pointwise, "dropout": dropout, "key": key_for(lengths)},
            impl="reference",
        )

    ready = [x.detach().requires_grad_() for x in biases[:2]]
    assert torch.autograd.gradcheck(attention, (*leaves, *ready))


@needs_extension
@both_kinds
def test_the_bits_depend_on_neither_threads_nor_instruction_set(pointwise):
    lengths = (200,) * 12 + LENGTHS  # enough work for several threads
    leaves, biases = vectors_for(lengths, 2, 17), biases_for(lengths, n_distances=60)
    keywords = {"pointwise": pointwise, "dropout": 0.0 if pointwise else 0.2}
    before, results = build_info()["isa"], []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            results.append(
                run_biased(leaves, lengths, biases, key=key_for(lengths), impl="cpp", **keywords)
            )
    torch.set_num_threads(1)
    extension.set_isa(before)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)


@both_kinds
def test_a_sequence_does_not_depend_on_its_batch(pointwise, impl):
    vectors = [x.detach() for x in vectors_for(LENGTHS, 2, 12)]
    biases, key = biases_for(LENGTHS, n_distances=60), key_for(LENGTHS)
    keywords = {"pointwise": pointwise, "dropout": 0.0 if pointwise else 0.3, "impl": impl}
    together = biased_attention(*vectors, offsets(LENGTHS), biases, key=key, **keywords)
    order = [3, 8, 0, 7, 6, 5]
    lengths = [LENGTHS[at] for at in order]
    *parts, times = (
        torch.cat([x.split(LENGTHS)[at] for at in order]) for x in (*vectors, biases.times)
    )
    key = DropoutKey(key.seed, key.epoch, key.users[order])
    out = biased_attention(
        *parts, offsets(lengths), biases._replace(times=times), key=key, **keywords
    )
    expected = torch.cat([together.split(LENGTHS)[at] for at in order])
    assert torch.equal(out, expected) or impl == "reference"
    torch.testing.assert_close(out, expected)


@both_kinds
def test_no_query_sees_the_future(pointwise, impl):
    lengths, at = (60, 20), 37
    vectors = [x.detach().clone() for x in vectors_for(lengths, 2, 8)]
    biases = biases_for(lengths, n_distances=60)
    keywords = {"pointwise": pointwise, "impl": impl}
    before = biased_attention(*vectors, offsets(lengths), biases, **keywords)
    for x in vectors:
        x[at:60] = 1e4
    times = biases.times.clone()
    times[at:60] += 1e9
    after = biased_attention(*vectors, offsets(lengths), biases._replace(times=times), **keywords)
    assert torch.equal(after[:at], before[:at])
    assert torch.equal(after[60:], before[60:])
    assert (after[at:60] != before[at:60]).all()


def test_scores_of_any_size(impl):
    lengths = (40, 3)
    leaves = [30 * x.detach() for x in vectors_for(lengths, 1, 16)]  # scores of some thousands
    biases = biases_for(lengths)
    wide = biases._replace(distance=biases.distance.double(), time=biases.time.double())
    truth = run_biased(
        [x.double() for x in leaves], lengths, wide, impl="reference", pointwise=True
    )
    found = run_biased(leaves, lengths, biases, impl=impl, pointwise=True)
    for one, true in zip(found, truth, strict=True):
        torch.testing.assert_close(one.double(), true, rtol=0, atol=1e-4 * float(true.abs().max()))


@needs_extension
def test_without_biases_it_is_packed_attention():
    leaves, key = vectors_for(LENGTHS, 2, 12), key_for(LENGTHS)
    found = run_biased(leaves, LENGTHS, AttentionBiases(), dropout=0.3, key=key)
    expected = packed_attention(*leaves, offsets(LENGTHS), dropout=0.3, key=key)
    assert len(found) == 4
    assert torch.equal(found[0], expected)


@both_kinds
def test_without_tokens(pointwise, impl):
    keywords = {"pointwise": pointwise, "impl": impl}
    found = run_biased(vectors_for((0,), 2, 5), (0,), biases_for((0,)), **keywords)
    assert found[0].shape == (0, 2, 5)
    assert not found[4].any()
    assert not found[5].any()
    out = biased_attention(*vectors_for((), 2, 5), offsets(()), biases_for(()), **keywords)
    assert out.shape == (0, 2, 5)


@pytest.mark.parametrize("needed", range(5))
@both_kinds
def test_a_gradient_for_one_input_alone(pointwise, needed, impl):
    lengths = (5, 2)
    leaves, biases = vectors_for(lengths, 2, 8), biases_for(lengths)
    expected = run_biased(leaves, lengths, biases, pointwise=pointwise, impl=impl)
    inputs = [x.detach() for x in (*leaves, *biases[:2])]
    inputs[needed].requires_grad_()
    given = AttentionBiases(*inputs[3:], *biases[2:])
    out = biased_attention(*inputs[:3], offsets(lengths), given, pointwise=pointwise, impl=impl)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (found,) = torch.autograd.grad(out, inputs[needed], direction.float())
    assert torch.equal(found, expected[1 + needed])


# --- buckets -------------------------------------------------------------------------------------


def test_where_buckets_begin():
    begins = bucket_begins(128)
    assert begins[0] == 0
    for bucket in range(1, 128):
        for factor, expected in ((1 + 1e-12, bucket), (1 - 1e-12, bucket - 1)):
            between = begins[bucket].item() * factor
            assert int(math.log(max(between, 1.0)) / 0.301) == expected
            assert bucket_of(torch.tensor(between, dtype=torch.float64), begins) == expected
    assert bucket_begins(3000)[-1] == math.inf


@pytest.mark.parametrize("order", ["ascending", "descending", "huge", "any"])
def test_all_find_the_same_buckets(order, impl):
    """Each pair's bucket is read back: a bias that makes all weight go to one bucket."""
    length = 60
    times, begins = times_for((length,), order), bucket_begins(200)
    between = (times[:, None] - times).abs()
    expected = bucket_of(between, begins).tril()
    q = torch.zeros(length, 1, length)
    v = torch.eye(length).unsqueeze(1)
    numbers = torch.arange(200.0) + 40.0  # SiLU of which is itself
    biases = AttentionBiases(None, numbers, times, begins)
    out = biased_attention(q, q, v, offsets((length,)), biases, pointwise=True, impl=impl)
    n_keys = torch.arange(1, length + 1).unsqueeze(1)
    found = (out[:, 0] * n_keys - 40).round().long().tril()
    assert torch.equal(found, expected)


# --- the custom op -------------------------------------------------------------------------------


@needs_extension
@both_kinds
def test_custom_op_contract(pointwise):
    torch.use_deterministic_algorithms(False)
    lengths = (5, 2)
    leaves = [x.detach().contiguous().requires_grad_() for x in vectors_for(lengths, 2, 8)]
    biases = biases_for(lengths)
    ready = [x.detach().requires_grad_() for x in biases[:2]]
    p = 0.0 if pointwise else 0.3
    words_of = offsets(lengths), torch.arange(2), p, -5, 2, 17
    op = torch.ops.pdrec_fast.biased_attention.default
    torch.library.opcheck(op, (*leaves, *words_of, *ready, *biases[2:], pointwise))
    torch.library.opcheck(op, (*leaves, *words_of, ready[0], None, None, None, pointwise))


@needs_extension
def test_compiles_without_a_graph_break():
    torch.use_deterministic_algorithms(False)
    lengths = (5, 2)
    leaves, biases = vectors_for(lengths, 2, 8), biases_for(lengths)
    compiled = torch.compile(biased_attention, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, biased_attention):
        out = function(*leaves, offsets(lengths), biases, pointwise=True, impl="cpp")
        results.append((out, *torch.autograd.grad(out.sum(), leaves)))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@needs_extension
def test_autocast_computes_in_float32():
    lengths = (5, 2)
    leaves = [x.detach().bfloat16() for x in vectors_for(lengths, 2, 8)]
    arguments = offsets(lengths), biases_for(lengths)
    with torch.autocast("cpu", torch.bfloat16):
        out = biased_attention(*leaves, *arguments, pointwise=True, impl="cpp")
    expected = biased_attention(
        *(leaf.float() for leaf in leaves), *arguments, pointwise=True, impl="cpp"
    )
    assert torch.equal(out, expected)


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": torch.zeros(0)}, r"biases.distance must be float32 .* shape \(0,\)"),
        ({"distance": torch.zeros(3).double()}, r"biases.distance .* got torch.float64"),
        ({"time": torch.zeros(3, 1)}, r"biases.time must be .* shape \(3, 1\)"),
        ({"times": None}, r"a bias of time needs biases.times: float64 \[7\]"),
        ({"begins": None}, r"a bias of time needs biases.begins: float64 \[128\]"),
        ({"times": torch.zeros(7)}, r"biases.times must be float64 of shape \[7\].*float32"),
        ({"times": torch.zeros(6).double()}, r"biases.times must be .*shape \(6,\)"),
        ({"begins": torch.zeros(3).double()}, r"biases.begins must be .*shape \(3,\)"),
        ({"pointwise": True, "dropout": 0.1}, r"dropout=0.1 is one of softmax weights"),
        ({"dropout": 0.1}, r"dropout=0.1 needs a key"),
        ({"k": torch.zeros(7, 1, 3)}, r"q and k must have the same dtype and shape"),
        ({"impl": "cuda"}, r"unknown impl='cuda'.*cpp"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict.fromkeys("qkv", torch.zeros(7, 1, 4)) | {"indptr": torch.tensor([0, 7])}
    biases = biases_for((7,), n_buckets=128)._asdict()
    biases |= {name: value for name, value in change.items() if name in biases}
    arguments |= {name: value for name, value in change.items() if name not in biases}
    with pytest.raises(ValueError, match=message):
        biased_attention(**arguments, biases=AttentionBiases(**biases))


@pytest.mark.parametrize("indptr", [[1, 7], [0, 6], [0, 9], [0, 5, 3, 7]])
def test_bounds_outside_the_tokens_are_refused(indptr, impl):
    leaves = vectors_for((7,), 1, 4)
    with pytest.raises(ValueError, match=r"indptr must rise from 0 to 7"):
        biased_attention(*leaves, torch.tensor(indptr), biases_for((7,)), impl=impl)
