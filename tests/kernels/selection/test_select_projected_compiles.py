"""The kernels of ``select_projected`` compile where there is no GPU, with the default tiles:
nothing spills, bfloat16 runs on tensor cores, and two programs fit on a multiprocessor."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws
from pdrec_fast.kernels.triton.selection import _score_tiles as score_tiles
from pdrec_fast.kernels.triton.selection import select_projected as projected_selection

name, dtype, hidden = sys.argv[1], sys.argv[2], int(sys.argv[3])
modules = projected_selection, score_tiles, pool_draws
kernel = next(getattr(module, name) for module in modules if hasattr(module, name))
tile = score_tiles.default_tile(
    hidden, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype], 1 << 20
)
rows, samples = (1, tile.sample) if name == "_bracket_kernel" else (tile.rows, 0)
constants = {
    "HIDDEN": hidden, "PRECISION": tile.precision, "BLOCK_ROWS": rows, "BLOCK_ITEMS": tile.items,
    "BLOCK_DEPTH": tile.depth, "CAPACITY": tile.capacity, "BLOCK_SAMPLES": samples,
    "BLOCK_PAIRS": 16, "BLOCK": 1024, "BLOCKS": 64,
}
types = dict.fromkeys(("vectors_ptr", "table_ptr"), f"*{dtype}")
floats = "bias", "upper", "lower", "least", "best", "out", "scores"
types |= dict.fromkeys((f"{name}_ptr" for name in floats), "*fp32")
types |= dict.fromkeys(("keys_ptr", "rows_ptr", "users_ptr"), "*i64") | {"seed": "i64"}
names = [parameter.name for parameter in kernel.params]
types = {
    name: "constexpr" if name in constants else types.get(name, "*i32" if "_ptr" in name else "i32")
    for name in names
}
values = {(names.index(name),): value for name, value in constants.items() if name in names}
aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "_ptr" in name}
options = {"num_warps": tile.n_warps, "num_stages": tile.n_stages, "maxnreg": tile.max_registers}
source = ASTSource(kernel, types, values, aligned)
compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
print("shared", compiled.metadata.shared, "wgmma" in compiled.asm["ptx"])
open(sys.argv[4], "wb").write(compiled.asm["cubin"])
"""


@pytest.mark.parametrize(
    ("kernel", "dtype", "hidden"),
    [
        ("_count_kernel", "bf16", 256),
        ("_count_kernel", "bf16", 1000),
        ("_collect_kernel", "bf16", 256),
        ("_collect_kernel", "fp32", 100),
        ("_bracket_kernel", "fp32", 256),
        ("_draw_kernel", "fp32", 256),
        ("_list_kernel", "fp32", 256),
    ],
)
def test_compiles_for_hopper(kernel, dtype, hidden, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    cubin = tmp_path / "kernel.cubin"
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, kernel, dtype, str(hidden), str(cubin)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    shared, tensor_cores = re.search(r"shared (\d+) (\w+)", result.stdout).groups()
    if dtype == "bf16":
        assert tensor_cores == "True"
        assert int(shared) <= (113 if hidden <= 256 else 226) * 1024
    usage = resource_usage(cubin)
    if usage is not None:
        assert "STACK:0 " in usage


def resource_usage(cubin):
    """What cuobjdump says, None where Triton brings none."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    if not os.path.exists(tool):
        return None
    return subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True).stdout
