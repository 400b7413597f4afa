"""Compiles kernels for a Hopper GPU on a machine that has none.

Run as a program, without TRITON_INTERPRET, it calls every launcher in ``LAUNCHES`` with CPU tensors
under a driver that says it is a Hopper's, and each launch compiles in place of running. It prints a
JSON line for each case: registers, stack and kind of matrix instruction of each kernel, and which
kernels batches of other sizes compile anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pdrec_fast.operands import (
    AttentionBiases,
    Candidates,
    Chain,
    DrawKey,
    ItemRows,
    LogitGradients,
    Noise,
    ObservedRows,
    PackedDropout,
    SharedNegatives,
    Similarity,
    SparseTarget,
)

ITEMS, HIDDEN = 500, 1000
SIMILARITIES = (
    Similarity("dot", 1.0),
    Similarity("cosine", 1.0),
    Similarity("cosine", 1.0, torch.ones(())),
)
# Triton compiles for a one, for multiples of 16 and for other integers, unless told not to.
N_ROWS, OTHER_N_ROWS = 40, (48, 1)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# In float32 these have the same tiles.
WIDTHS = {torch.float32: (HIDDEN,), torch.bfloat16: (200, HIDDEN)}


def kernels(op: str) -> Any:
    return import_module(f"pdrec_fast.kernels.triton.{op}")


def candidates(dtype: torch.dtype, n: int) -> Candidates:
    items = torch.zeros(n, 100, dtype=torch.int64)
    return Candidates(torch.ones(n, 64, dtype=dtype), torch.ones(ITEMS, 64, dtype=dtype), items)


def item_logits(dtype: torch.dtype, n: int) -> None:
    for similarity in SIMILARITIES:
        given = candidates(dtype, n), similarity, torch.ones(ITEMS)
        kernels("candidates.item_logits").item_logits(*given)


def weighted_bce(dtype: torch.dtype, n: int) -> None:
    for similarity in SIMILARITIES:
        given = candidates(dtype, n), torch.ones(n, 100), 1, similarity
        kernels("candidates.weighted_bce").weighted_bce(*given)


def sampled_softmax(dtype: torch.dtype, n: int) -> None:
    for similarity in SIMILARITIES:
        given = candidates(dtype, n), torch.ones(n), similarity
        kernels("candidates.sampled_softmax").sampled_softmax(*given)


def shared_softmax(dtype: torch.dtype, n: int) -> None:
    """A block of products in ``dtype``; states and candidates are in float32."""
    block, shared = torch.ones(n, ITEMS, dtype=dtype), SharedNegatives(*negatives())
    for similarity in SIMILARITIES:
        given = candidates(torch.float32, n)
        outputs = torch.ones(n), torch.ones(n)
        gradients = LogitGradients.empty(given.items)
        kernels("candidates.shared_softmax").shared_softmax(
            block, given, shared, torch.ones(n), similarity, gradients, outputs
        )


def negatives() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(ITEMS, dtype=torch.int64), torch.zeros(ITEMS)


def corpus_softmax(dtype: torch.dtype, n: int) -> None:
    module, block = kernels("candidates.corpus_softmax"), torch.ones(n, ITEMS, dtype=dtype)
    ones = torch.ones(n)
    rows = module.CorpusRows(ones, torch.zeros(n, dtype=torch.int64), ones, torch.ones(n, 4))
    for similarity in SIMILARITIES:
        for first, n_items in ((0, ITEMS), (0, 3 * ITEMS), (ITEMS, 3 * ITEMS), (ITEMS, 2 * ITEMS)):
            given = block, slice(first, first + ITEMS), n_items, rows, similarity
            module.corpus_softmax(*given, (ones, ones, ones))
        module.corpus_derivatives(block, slice(ITEMS, 2 * ITEMS), rows, similarity)


def candidate_gradients(dtype: torch.dtype, n: int) -> None:
    module, weights = kernels("candidates._gradients"), torch.ones(n, 100)
    gradients = LogitGradients(weights, weights, torch.ones(n))
    given = torch.ones(()), candidates(dtype, n), gradients
    for gradient in (module.states_gradient, module.table_gradient, module.table_gradient_rows):
        gradient(*given)
    torch.use_deterministic_algorithms(True)
    module.table_gradient(*given)
    torch.use_deterministic_algorithms(False)


def packed(n: int) -> PackedDropout:
    """Sequences of one token."""
    return PackedDropout(torch.arange(n + 1), torch.zeros(n, dtype=torch.int64), 0.2, 1, 2, 3)


def packed_dropout(dtype: torch.dtype, n: int) -> None:
    x = torch.ones(n, 64, dtype=dtype)
    kernels("packed.packed_dropout").packed_dropout(x, packed(n))


def packed_attention(dtype: torch.dtype, n: int) -> None:
    module, q = kernels("packed.packed_attention"), torch.ones(n, 1, 64, dtype=dtype)
    softmax = torch.ones(2, n, 1)
    module.packed_attention(q, q, q, packed(n))
    module.packed_attention_backward(q, q, q, q, softmax, packed(n))


def biased_attention(dtype: torch.dtype, n: int) -> None:
    module, q = kernels("packed.biased_attention"), torch.ones(n, 1, 64, dtype=dtype)
    begins = torch.arange(128, dtype=torch.float64)
    biases = AttentionBiases(torch.ones(50), torch.ones(128), torch.ones(n).double(), begins)
    for pointwise in (False, True):
        softmax = torch.ones(0 if pointwise else 2, n, 1)
        words = packed(n)._replace(p=0.0) if pointwise else packed(n)
        module.biased_attention(q, q, q, words, biases, pointwise)
        module.biased_attention_backward(q, q, q, q, softmax, words, biases, pointwise)


def histories(n: int) -> ItemRows:
    """An item for every user."""
    return ItemRows(torch.arange(n + 1), torch.zeros(n, dtype=torch.int32), torch.ones(n), ITEMS)


def noise(n: int) -> Noise:
    """As processes have it that hold the items from 4 n on."""
    return Noise(torch.ones(n), torch.ones(n), torch.arange(n), 0.5, 1, 2, first_item=4 * n)


def noisy_input(dtype: torch.dtype, n: int) -> None:
    out = torch.empty(n, ITEMS, dtype=dtype)
    kernels("denoising.noisy_input").noisy_input(out, histories(n), noise(n))


def noisy_projection(dtype: torch.dtype, n: int) -> None:
    module, noised = kernels("denoising.noisy_projection"), (histories(n), noise(n))
    for hidden in WIDTHS[dtype]:
        module.noisy_projection(torch.ones(ITEMS, hidden, dtype=dtype), *noised)
        module.weight_gradient(torch.ones(n, hidden, dtype=dtype), *noised)


def hidden_chain(dtype: torch.dtype, n: int) -> None:
    coefficients = torch.ones(2, 10, dtype=torch.float64)
    for hidden in WIDTHS[dtype]:
        layer = torch.ones(ITEMS, hidden, dtype=dtype), torch.ones(hidden, hidden, dtype=dtype)
        chain = Chain(*layer, torch.ones(hidden), torch.ones(10, hidden), *coefficients)
        kernels("denoising.hidden_chain").hidden_chain(histories(n), chain)


def corpus_error(dtype: torch.dtype, n: int) -> None:
    layer = torch.ones(n, HIDDEN, dtype=dtype), torch.ones(ITEMS, HIDDEN, dtype=dtype)
    target = SparseTarget(torch.arange(n), torch.zeros(n, dtype=torch.int64), torch.ones(n))
    kernels("denoising.corpus_error").corpus_error(*layer, torch.ones(ITEMS), target)


def select_projected(dtype: torch.dtype, n: int) -> None:
    (indptr, items, *_), n_items = histories(n), 2**15 + 4  # more than are sampled
    matrices = torch.ones(n, 256), torch.ones(n_items, 256, dtype=dtype), torch.ones(n_items)
    corpus = kernels("selection._score_tiles").Corpus(*matrices)
    rows, ranks = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    observed = ObservedRows(indptr, items, ranks)
    found = kernels("selection.select_projected").select_projected(corpus, observed, rows, 5)
    kernels("selection._score_tiles").scores_of_pairs(corpus, rows, items)
    key = DrawKey(2**64 - 1, 2, rows)
    for any_listed in (False, True):
        kernels("selection._pool_draws").draw(
            found.pool, ranks, n_items, 7, key, any_listed=any_listed
        )


LAUNCHES = {
    f"{launch.__name__}-{name}": partial(launch, dtype)
    for launch in (
        item_logits,
        weighted_bce,
        sampled_softmax,
        shared_softmax,
        corpus_softmax,
        candidate_gradients,
        packed_dropout,
        packed_attention,
        biased_attention,
        noisy_input,
        noisy_projection,
        hidden_chain,
        corpus_error,
        select_projected,
    )
    for name, dtype in DTYPES.items()
}


class HopperDriver:
    """What a launch asks of Triton's driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


class DeviceGuard:
    """In place of ``torch.cuda.device_of``, which does nothing for tensors of a CPU."""

    depth = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        pass

    def __enter__(self) -> None:
        DeviceGuard.depth += 1

    def __exit__(self, *_: object) -> None:
        DeviceGuard.depth -= 1


def compiled_by(launch: Callable[[], None]) -> dict[str, Any]:
    """The kernels that ``launch`` would run, by hash."""
    from triton.runtime.jit import JITFunction

    run, found = JITFunction.run, {}

    def compile_only(self: Any, *args: Any, **keywords: Any) -> None:
        assert DeviceGuard.depth, f"{self.__name__} runs on the current device, not its tensors'"
        kernel = run(self, *args, **{**keywords, "warmup": True})
        found[kernel.hash] = kernel

    JITFunction.run = compile_only
    try:
        launch()
    finally:
        JITFunction.run = run
    return found


def results_of(launch: Callable[[int], None]) -> dict[str, Any]:
    """What the program prints of a case, apart from its name."""
    try:
        found = compiled_by(partial(launch, N_ROWS))
        others = {}
        for n in OTHER_N_ROWS:
            others |= compiled_by(partial(launch, n))
        with ThreadPoolExecutor() as pool:
            reports = list(pool.map(report, found.values()))
    except Exception:
        return {"error": traceback.format_exc()}
    anew = {kernel.metadata.name for key, kernel in others.items() if key not in found}
    return {"kernels": reports, "compiled_anew": sorted(anew)}


def report(kernel: Any) -> dict[str, Any]:
    """Registers that spill show as bytes of stack."""
    import triton

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        command = [cuobjdump, "-res-usage", binary.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", done.stdout)[-1]
    return {
        "name": kernel.metadata.name,
        "registers": int(registers),
        "stack_bytes": int(stack),
        "shared_bytes": kernel.metadata.shared,
        "wgmma": "wgmma" in kernel.asm["ptx"],
    }


def main() -> None:
    from triton.runtime import driver

    driver.set_active(HopperDriver())
    torch.cuda.device_of = DeviceGuard
    for case, launch in LAUNCHES.items():
        print(json.dumps({"case": case, **results_of(launch)}), flush=True)


if __name__ == "__main__":
    main()
