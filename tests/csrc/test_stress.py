"""All of the extension's functions at once: threads that call together, on arrays that are written
and freed as soon as a call has returned, forks and the end of the interpreter in the midst of it.

A few seconds here; ``make sanitize`` runs it for longer (``PDREC_STRESS_ROUNDS``), where wrong
accesses that change no result are seen too."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pdrec_fast.build_info import build_info, extension
from tests.csrc._calls import CALLS, Call

pytestmark = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("PDREC_STRESS_ROUNDS", "2"))
SIZES = 1, 7, 40
THREADS = 4


def outcome(call: Call, name: str, n_threads: int) -> list[np.ndarray]:
    """What a call returns and leaves in its arrays, copied; they are then written and given up."""
    result = call.run(name, n_threads)
    results = result if isinstance(result, tuple) else (result,)
    arrays = call.arrays()
    outputs = [np.array(each) for each in results if each is not None]
    outputs += [arrays[path].copy() for path in call.writes]
    for array in arrays.values():
        array.view(np.uint8).fill(0xFF)
    return outputs


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True)
    )


def stress(expected, n_threads, rounds, failures, seed):
    order = random.Random(seed)
    jobs = sorted(expected)
    for _ in range(rounds):
        order.shuffle(jobs)
        for name, size in jobs:
            try:
                if not same(outcome(CALLS[name](size), name, n_threads), expected[name, size]):
                    failures.append(f"{name} of {size} rows gave other numbers")
            except Exception as error:
                failures.append(f"{name} of {size} rows: {error}")


def alone():
    """What every function gives with one thread and nothing beside it."""
    return {(name, size): outcome(CALLS[name](size), name, 1) for name in CALLS for size in SIZES}


def at_once(expected, rounds=ROUNDS):
    """What went wrong when threads call everything together, each with threads of its own."""
    failures = []
    callers = [
        threading.Thread(target=stress, args=(expected, n_threads, rounds, failures, n_threads))
        for n_threads in range(1, THREADS + 1)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return failures


@pytest.mark.parametrize("isa", build_info().get("isas_runnable", []))
def test_everything_at_once(isa):
    before = build_info()["isa"]
    extension.set_isa(isa)
    try:
        assert at_once(alone()) == []
    finally:
        extension.set_isa(before)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_others_run_meanwhile(name):
    """Python changes threads by itself only after an hour here: the other one runs because the
    function lets it."""
    ran, go = threading.Event(), threading.Lock()

    def wait():
        with go:
            ran.set()

    before = sys.getswitchinterval()
    go.acquire()
    other = threading.Thread(target=wait)
    other.start()
    sys.setswitchinterval(3600.0)
    try:
        call = CALLS[name](40)
        go.release()
        for _ in range(20_000):
            call.run(name)
            if ran.is_set():
                break
    finally:
        sys.setswitchinterval(before)
        seen = ran.is_set()
        other.join()
    assert seen


def in_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


START = """
import os, sys, threading, time
from tests.csrc.test_stress import alone, at_once, stress
expected, failures = alone(), []
for n_threads in (1, 2, 3):
    threading.Thread(
        target=stress, args=(expected, n_threads, 10**9, failures, n_threads), daemon=True
    ).start()
time.sleep(0.3)
"""
OWN_OR_TORCHS = pytest.mark.parametrize("own", ["0", "1"], ids=["torch's threads", "own threads"])


@OWN_OR_TORCHS
@pytest.mark.parametrize("seconds", ["0", "0.05", "0.2", "0.5"] if ROUNDS > 2 else ["0.05"])
def test_the_interpreter_ends_meanwhile(own, seconds):
    done = in_python(
        START + f"time.sleep({seconds}); print('end', failures, flush=True)", PDREC_OWN_THREADS=own
    )
    assert (done.returncode, done.stdout) == (0, "end []\n"), done.stderr


FORK = (
    START
    + """
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os._exit(1 if at_once(expected, 1) else 0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print("codes", codes, failures, flush=True)
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@OWN_OR_TORCHS
def test_forks_while_others_compute(own):
    done = in_python(FORK, PDREC_OWN_THREADS=own)
    assert (done.returncode, done.stdout) == (0, "codes [0, 0, 0, 0] []\n"), done.stderr
