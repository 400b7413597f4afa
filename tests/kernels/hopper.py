"""Compiles kernels for a Hopper GPU on a machine that has none.

Run as a program, without TRITON_INTERPRET, it calls every launcher in ``LAUNCHES`` with CPU tensors
under a driver that says it is a Hopper's, and each launch compiles in place of running. It prints a
JSON line for each case: registers, stack and kind of matrix instruction of each kernel.
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

TOKENS, ITEMS, HIDDEN = 40, 256, 1000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def kernels(op: str) -> Any:
    return import_module(f"pdrec_fast.kernels.triton.{op}")


def candidates(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """states, table, items"""
    items = torch.zeros(TOKENS, 100, dtype=torch.int64)
    return torch.ones(TOKENS, 64, dtype=dtype), torch.ones(ITEMS, 64, dtype=dtype), items


def item_logits(dtype: torch.dtype) -> None:
    for cosine in (False, True):
        kernels("item_logits").item_logits(*candidates(dtype), cosine, 1.0, torch.ones(ITEMS))


def weighted_bce(dtype: torch.dtype) -> None:
    module, inputs = kernels("weighted_bce"), candidates(dtype)
    weights, by_state = torch.ones(TOKENS, 100), torch.ones(TOKENS)
    for cosine in (False, True):
        module.weighted_bce(*inputs, weights, 1, cosine, 1.0)
    upstream = torch.ones(())
    module.states_gradient(upstream, *inputs, weights, by_state)
    for gradient in (module.table_gradient, module.sparse_table_gradient):
        gradient(upstream, *inputs, weights, weights)
    torch.use_deterministic_algorithms(True)
    module.table_gradient(upstream, *inputs, weights, weights)
    torch.use_deterministic_algorithms(False)


def packed() -> tuple[torch.Tensor, torch.Tensor]:
    """indptr, users"""
    return torch.tensor([0, TOKENS]), torch.zeros(1, dtype=torch.int64)


def packed_dropout(dtype: torch.dtype) -> None:
    x = torch.ones(TOKENS, 64, dtype=dtype)
    kernels("packed_dropout").packed_dropout(x, *packed(), 0.2, 1, 2, 3)


def packed_attention(dtype: torch.dtype) -> None:
    module, q = kernels("packed_attention"), torch.ones(TOKENS, 1, 64, dtype=dtype)
    softmax = torch.ones(2, TOKENS, 1)
    for p in (0.0, 0.2):
        module.packed_attention(q, q, q, *packed(), p, 1, 2, 3)
        module.packed_attention_backward(q, q, q, q, *packed(), softmax, p, 1, 2, 3)


def noise() -> tuple[Any, tuple[torch.Tensor, ...]]:
    """key; indptr, items, values, signal, sigma, users"""
    key = kernels("noisy_input").RandomKey(0.5, 1, 2)
    ones, users = torch.ones(TOKENS), torch.arange(TOKENS)
    return key, (*histories(), ones, ones, users)


def histories() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """indptr, items, values: an item for every user"""
    items = torch.zeros(TOKENS, dtype=torch.int32)
    return torch.arange(TOKENS + 1), items, torch.ones(TOKENS)


def noisy_input(dtype: torch.dtype) -> None:
    key, arrays = noise()
    kernels("noisy_input").noisy_input(key, torch.empty(TOKENS, ITEMS, dtype=dtype), *arrays)


def noisy_projection(dtype: torch.dtype) -> None:
    module, (key, arrays) = kernels("noisy_projection"), noise()
    for hidden in (200, HIDDEN):
        module.noisy_projection(key, torch.ones(ITEMS, hidden, dtype=dtype), *arrays)
        module.weight_gradient(key, ITEMS, torch.ones(TOKENS, hidden, dtype=dtype), *arrays)


LAUNCHES = {
    f"{launch.__name__}-{name}": partial(launch, dtype)
    for launch in (
        item_logits,
        weighted_bce,
        packed_dropout,
        packed_attention,
        noisy_input,
        noisy_projection,
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


def compiled_by(launch: Callable[[], None]) -> list[Any]:
    """The kernels that ``launch`` would run."""
    from triton.runtime.jit import JITFunction

    run, found = JITFunction.run, {}

    def compile_only(self: Any, *args: Any, **keywords: Any) -> None:
        kernel = run(self, *args, **{**keywords, "warmup": True})
        found[kernel.hash] = kernel

    JITFunction.run = compile_only
    try:
        launch()
    finally:
        JITFunction.run = run
    return list(found.values())


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
    for case, launch in LAUNCHES.items():
        try:
            with ThreadPoolExecutor() as pool:
                result = {"kernels": list(pool.map(report, compiled_by(launch)))}
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps({"case": case, **result}))


if __name__ == "__main__":
    main()
