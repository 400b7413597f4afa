"""What autocast of a GPU does to each differentiable operation, shown by tensors without data."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pdrec_fast.operands import AttentionBiases
from pdrec_fast.ops.candidates._blocks import Wanted
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from pdrec_fast.ops.candidates.shared_softmax import shared_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from pdrec_fast.ops.denoising.corpus_error import corpus_error
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.biased_attention import biased_attention
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.ops.packed.packed_dropout import packed_dropout

pytest.importorskip("triton", reason="Triton is not installed")

FP32, BF16 = torch.float32, torch.bfloat16
TOKENS, ITEMS, WIDTH = 7, 11, 8


@pytest.fixture(autouse=True)
def _fake_gpu():
    """``torch.autocast`` refuses a GPU that is not there; its state can be set all the same."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", BF16)
    with FakeTensorMode():
        yield
    torch.set_autocast_enabled("cuda", before[0])
    torch.set_autocast_dtype("cuda", before[1])


def floats(*shape, dtype=FP32):
    """Without gradient, for which torch would look up the GPU's streams."""
    return torch.empty(shape, dtype=dtype, device="cuda")


def integers(n, dtype=torch.int64):
    return torch.empty(n, dtype=dtype, device="cuda")


def kind(tensor):
    return tensor.device.type, tensor.dtype


class Given(TorchDispatchMode):
    """The dtypes of the floating tensors that the package's operations are given."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "pdrec_fast":
            tensors = (part for part in args if isinstance(part, torch.Tensor))
            self.dtypes |= {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        return func(*args, **(kwargs or {}))


def test_a_product_is_cast():
    """Else these tests would show nothing."""
    assert kind(floats(2, 3) @ floats(3, 2)) == ("cuda", BF16)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [((FP32, FP32, FP32), FP32), ((BF16, BF16, BF16), BF16), ((BF16, FP32, BF16), FP32)],
    ids=["fp32", "bf16", "mixed"],
)
def test_attention_takes_what_comes_and_mixed_dtypes_in_the_widest(dtypes, expected):
    parts = [floats(TOKENS, 2, WIDTH, dtype=dtype) for dtype in dtypes]
    keywords = {"dropout": 0.2, "key": DropoutKey(1, 2, integers(2))}
    assert kind(packed_attention(*parts, integers(3), **keywords)) == ("cuda", expected)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_biases_of_attention_stay_in_float32(dtype):
    parts = [floats(TOKENS, 2, WIDTH, dtype=dtype) for _ in range(3)]
    times, begins = (floats(n, dtype=torch.float64) for n in (TOKENS, 4))
    biases = AttentionBiases(floats(5), floats(4), times, begins)
    keywords = {"dropout": 0.2, "key": DropoutKey(1, 2, integers(2))}
    with Given() as given:
        out = biased_attention(*parts, integers(3), biases, **keywords)
    assert kind(out) == ("cuda", dtype)
    assert given.dtypes == {dtype, FP32, torch.float64}


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_dropout_keeps_its_dtype(dtype):
    x, key = floats(TOKENS, WIDTH, dtype=dtype), DropoutKey(1, 2, integers(2))
    assert kind(packed_dropout(x, integers(3), 0.2, key=key, stream=3)) == ("cuda", dtype)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_the_loss_of_candidates_is_float32(dtype):
    states, table = floats(TOKENS, WIDTH, dtype=dtype), floats(ITEMS, WIDTH)
    items, weights = integers((TOKENS, 5)), floats(TOKENS, 5, dtype=dtype)
    settings = {"similarity": "cosine", "temperature": 2.0}
    with Given() as given:
        loss = weighted_bce(states, table, items, weights, 1, **settings)
    assert kind(loss) == ("cuda", FP32)
    assert given.dtypes == {FP32}


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("loss", [shared_softmax, corpus_softmax])
def test_losses_of_shared_items_are_float32_of_products_in_bfloat16(loss, dtype):
    states, table = floats(TOKENS, WIDTH, dtype=dtype), floats(ITEMS, WIDTH)
    positives, weights = integers(TOKENS), floats(TOKENS, dtype=dtype)
    given = [states, table, positives, weights]
    if loss is shared_softmax:
        given[2:3] = integers((TOKENS, 1)), integers(4), floats(4)
    assert Wanted.of(states, table).half
    with Given() as seen:
        assert kind(loss(*given, similarity="cosine", temperature=2.0)) == ("cuda", FP32)
    assert seen.dtypes == {FP32}


@pytest.mark.parametrize(("impl", "inside"), [("triton", BF16), ("dense", BF16), ("gram", FP32)])
def test_errors_over_the_corpus_are_float32_of_products_in_bfloat16(impl, inside):
    layer = floats(TOKENS, WIDTH), floats(ITEMS, WIDTH), floats(ITEMS)
    entries = integers(4), integers(4), floats(4)
    with Given() as given:
        assert kind(corpus_error(*layer, *entries, impl=impl)) == ("cuda", FP32)
    assert given.dtypes == {inside}


def test_the_noised_product_is_bfloat16():
    weight, scale = floats(ITEMS, WIDTH), floats(3)
    sparse = integers(4), integers(5, torch.int32), floats(5)
    keys = {"seed": 1, "epoch": 2, "users": integers(3)}
    out = noisy_projection(*sparse, weight, scale, scale, 0.2, **keys)
    assert kind(out) == ("cuda", BF16)
