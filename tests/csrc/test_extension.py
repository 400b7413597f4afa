"""The extension itself: build facts, instruction sets, buffers, fork, and life without it."""

import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import pdrec_fast
from pdrec_fast.build_info import build_info, extension
from pdrec_fast.ops.denoising.noisy_input import noisy_input

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")


def noise():
    """Noise of 40 users, enough rows for both threads."""
    return noisy_input(
        np.zeros(41, dtype=np.int64),
        np.zeros(0, dtype=np.int32),
        np.zeros(0, dtype=np.float32),
        300,
        np.ones(40, dtype=np.float32),
        np.ones(40, dtype=np.float32),
        0.5,
        seed=1,
        epoch=0,
        users=np.arange(40),
        impl="cpp",
    )


@needs_extension
def test_build_info_describes_the_extension():
    info = build_info()
    assert info["version"] == pdrec_fast.__version__
    assert info["extension"] is True
    assert info["problem"] is None
    assert info["isas_built"][0] == "baseline"
    assert set(info["isas_runnable"]) <= set(info["isas_built"])
    assert info["isa"] in info["isas_runnable"]
    assert info["build_type"] == "Release"
    assert info["compiler"].split()[0] in {"gcc", "clang"}


@needs_extension
def test_the_instruction_set_can_be_forced():
    before = build_info()["isa"]
    for isa in build_info()["isas_runnable"]:
        extension.set_isa(isa)
        assert build_info()["isa"] == isa
    extension.set_isa(before)


@needs_extension
def test_floating_point_results_have_the_same_bits_on_every_instruction_set():
    before = build_info()["isa"]
    results = []
    for isa in build_info()["isas_runnable"]:
        extension.set_isa(isa)
        results.append(noise())
    extension.set_isa(before)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_extension
def test_an_unknown_instruction_set_is_refused():
    before = build_info()["isa"]
    with pytest.raises(ValueError, match=r"isa='mmx' cannot run here; choose one of: baseline"):
        extension.set_isa("mmx")
    assert build_info()["isa"] == before


@needs_extension
@pytest.mark.parametrize(
    "users",
    [
        np.arange(3, dtype=np.int32),
        np.arange(6, dtype=np.int64)[::2],
        [0, 1, 2],
    ],
    ids=["other dtype", "strided", "list"],
)
def test_buffers_are_refused_rather_than_copied(users):
    out = np.zeros((2, 4), dtype=np.uint64)
    with pytest.raises(TypeError):
        extension.random_words(0, 0, np.arange(2), 0, out, 1)
    out = np.zeros((3, 4), dtype=np.uint32)
    selected = [np.zeros(3, np.float32), np.zeros(3, np.int32), np.zeros(3, np.int32)]
    with pytest.raises(TypeError):
        extension.select_unobserved(
            np.zeros((3, 4), np.float32),
            np.zeros(4, np.int64),
            np.zeros(0, np.int32),
            users,
            np.zeros((3, 1), np.int32),
            *selected,
            1,
        )


@needs_extension
def test_read_only_outputs_and_wrong_shapes_are_refused():
    out = np.zeros((2, 4), dtype=np.uint32)
    with pytest.raises(ValueError, match=r"users of shape \[n_rows\]"):
        extension.random_words(0, 0, np.arange(3), 0, out, 1)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        extension.random_words(0, 0, np.arange(2), 0, out, 1)


@needs_extension
def test_calls_from_many_threads_do_not_disturb_each_other():
    expected = noise()
    results = []
    workers = [threading.Thread(target=lambda: results.append(noise())) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6
    assert all(torch.equal(result, expected) for result in results)


def _same_in_child(expected, queue):
    queue.put(bool(np.array_equal(noise().numpy(), expected)))


@needs_extension
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_works_in_a_forked_child():
    expected = noise().numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_same_in_child, args=(expected, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0


WITHOUT_EXTENSION = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
sys.modules["pdrec_fast._C"] = None
import numpy as np, torch, pdrec_fast
from pdrec_fast.build_info import build_info
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
observed = np.zeros(2, np.int64), np.zeros(0, np.int32)
for _ in range(2):
    top = select_unobserved(torch.tensor([[1.0, 3.0, 2.0]]), observed, 2, np.zeros(1, np.int64))
print(top.top_items.tolist())
try:
    select_unobserved(torch.zeros(1, 3), observed, 2, np.zeros(1, np.int64), impl="cpp")
except BackendError as error:
    print("ERROR", error)
print(build_info())
"""


def test_without_the_extension_the_reference_runs_and_says_why(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    reason = "the C++ extension pdrec_fast._C is not built: "
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1, "logged once"
    assert "not using impl='cpp': " + reason in warnings[0]
    assert "install a C++17 compiler" in warnings[0]
    assert "pip install" in warnings[0]
    assert "[[1, 2]]" in lines
    errors = [line for line in lines if line.startswith("ERROR")]
    assert reason in errors[0]
    assert "usable here: ['reference']" in errors[0]
    assert "'extension': False" in lines[-1]


@needs_extension
def test_instruction_sets_are_those_that_the_kernel_names():
    """A compiler whose runtime does not know the processor would leave all but one unused."""
    info = build_info()
    try:
        with open("/proc/cpuinfo") as stream:
            (flags, *_) = (line for line in stream if line.startswith("flags"))
    except (OSError, ValueError):
        pytest.skip("/proc/cpuinfo names no flags here")
    present = set(flags.split(":")[1].split())
    needed = {"baseline": set(), "avx2": {"avx2", "fma", "bmi1", "popcnt"}}
    needed["avx512"] = needed["avx2"] | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    assert info["isas_built"] == list(needed)
    assert info["isas_runnable"] == [isa for isa in needed if needed[isa] <= present]
