"""The packed kernels compile for a GPU where there is none: the interpreter takes what Triton's
compiler refuses, a constexpr assigned twice for one."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pdrec_fast.kernels.triton import packed_attention, packed_dropout

name, dtype = sys.argv[1:]
kernel = getattr(packed_attention, name, None) or getattr(packed_dropout, name)
constants = {"WIDTH": 64, "BLOCK": 16, "FAN": 128, "LEVELS": 2}
if name == "_dropout":
    constants["BLOCK"] = 1024
else:
    constants |= {"BLOCK_E": 64, "DROPOUT": True, "PRECISION": "ieee"}
types = dict.fromkeys(("indptr", "users"), "*i64")
types |= dict.fromkeys(("maximum", "inverse", "mean"), "*fp32")
types |= dict.fromkeys(("scale", "keep_scale"), "fp32")
types |= dict.fromkeys(("seed", "keep_from"), "i64")
types |= dict.fromkeys(("n_sequences", "n_heads", "epoch", "stream"), "i32")
types |= dict.fromkeys(constants, "constexpr")

def type_of(argument):
    stride = argument.endswith(("_token", "_head"))
    return types.get(argument, "i32" if stride else f"*{dtype}")

names = [parameter.name for parameter in kernel.params]
constants = {(names.index(argument),): value for argument, value in constants.items()}
source = ASTSource(kernel, {name: type_of(name) for name in names}, constants)
compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 2})
assert compiled.asm["cubin"]
"""


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("_dropout", "bf16"),
        ("_forward", "bf16"),
        ("_backward_queries", "fp32"),
        ("_backward_keys", "bf16"),
    ],
)
def test_compiles_for_hopper(kernel, dtype, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, kernel, dtype],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
