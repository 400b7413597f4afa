"""The extension on torch's threads: the same results, also in a process that was forked."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pdrec_fast import thread_pool
from pdrec_fast.build_info import extension
from pdrec_fast.thread_pool import openmp_runtime

pytestmark = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
needs_runtime = pytest.mark.skipif(
    openmp_runtime() is None, reason="torch has no OpenMP runtime that can be found here"
)

WORDS = """
import os, sys
import numpy as np
import torch
from pdrec_fast.build_info import extension

def words(n_threads):
    out = np.empty((1000, 64), dtype=np.uint32)
    extension.random_words(1, 2, np.arange(1000, dtype=np.int64), 3, out, n_threads)
    return out
"""


def run(script: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", WORDS + script],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@needs_runtime
def test_the_runtime_is_torchs():
    assert openmp_runtime().name.startswith(("libgomp", "libiomp5", "libomp"))


def test_of_two_runtimes_torchs_own_is_taken_in_an_environment_that_is_a_link(
    tmp_path, monkeypatch
):
    real = tmp_path / "real/torch"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    runtimes = [real / "lib/libgomp.so.1", tmp_path / "libgomp-of-another.so"]
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f-80 r-xp 0 08:01 42 {path}\n" for path in runtimes))
    monkeypatch.setattr(thread_pool, "_MAPS", maps)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "link/torch/__init__.py"))
    assert openmp_runtime() == runtimes[0]


@pytest.mark.parametrize("own", ["0", "1"])
def test_results_are_the_same_on_any_threads(own):
    script = "print(all((words(n) == words(1)).all() for n in (2, 3, 7)))"
    assert run(script, PDREC_OWN_THREADS=own).strip() == "True"


@needs_runtime
def test_a_forked_process_has_threads_of_its_own():
    """The parent's team does not exist there: waiting for it would never end."""
    script = """
expected = words(2)
if os.fork() == 0:
    os._exit(0 if (words(2) == expected).all() else 3)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert run(script).strip() == "0"


@needs_runtime
def test_torch_and_the_extension_take_turns():
    matrix = torch.rand(300, 300)
    expected = np.empty((1000, 64), dtype=np.uint32)
    users = np.arange(1000, dtype=np.int64)
    extension.random_words(1, 2, users, 3, expected, 1)
    out = np.empty_like(expected)
    for _ in range(50):
        product = matrix @ matrix
        extension.random_words(1, 2, users, 3, out, 2)
        assert torch.equal(product, matrix @ matrix)
        np.testing.assert_array_equal(out, expected)
