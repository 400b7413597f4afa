"""Every kernel compiles for Hopper as its launcher calls it, where there is no GPU: the interpreter
takes what Triton's compiler refuses, and says nothing of registers.

A new kernel takes one function in ``hopper.LAUNCHES``.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kernels.hopper import LAUNCHES

triton = pytest.importorskip("triton", reason="Triton is not installed")
TRITON = tuple(map(int, triton.__version__.split(".")[:2]))

MOST_SHARED = 227 * 1024  # bytes that a program may have
MOST_SPILLED = 32  # bytes a thread: by Triton 3.2 in two kernels; by 3.7 nothing spills
# Its ptxas leaves 32 registers of 255 to one pass, of the keys, whose products are unrolled.
SPILLING_FROM_3_9 = {"packed_attention-fp32": ["_attention"]} if TRITON >= (3, 9) else {}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What ``hopper`` prints, by case, of a process in which Triton compiles."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.kernels.hopper"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {report.pop("case"): report for report in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", LAUNCHES)
def test_compiles_for_hopper_without_spills(reports, case):
    report = reports[case]
    assert "error" not in report, report["error"]
    assert report["kernels"]
    spilling = [
        kernel["name"] for kernel in report["kernels"] if kernel["stack_bytes"] > MOST_SPILLED
    ]
    assert Counter(spilling) <= Counter(SPILLING_FROM_3_9.get(case, [])), report
    assert all(kernel["shared_bytes"] <= MOST_SHARED for kernel in report["kernels"]), report


@pytest.mark.parametrize("case", LAUNCHES)
def test_a_batch_of_another_size_compiles_nothing_anew(reports, case):
    """Nor does one of one row fail, whose number Triton would make a constant."""
    assert "error" not in reports[case], reports[case]["error"]
    assert reports[case]["compiled_anew"] == []


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("noisy_projection-bf16", {"_noise_product_kernel", "_weight_gradient_kernel"}),
        ("hidden_chain-bf16", {"_chain_kernel"}),
        ("corpus_error-bf16", {"_difference_kernel"}),
    ],
)
def test_wide_products_take_the_instruction_of_warp_groups(reports, case, names):
    assert {kernel["name"] for kernel in reports[case]["kernels"] if kernel["wgmma"]} == names
