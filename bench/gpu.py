"""``python -m bench gpu``: the tests, every kernel and every stage on a GPU, in one report."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import plots, report
from bench.compare import build_in_place
from bench.goals import format_goals, judge
from bench.machine import Rates
from bench.runner import Settings, run
from bench.target import gpu_target

RESULTS = Path("bench/results")
ROOT = Path(__file__).resolve().parents[1]
_REASON = (
    "no CUDA device: kernels run under Triton's interpreter at tiny sizes; "
    "their times mean nothing and are not kept"
)


@dataclass(frozen=True)
class Plan:
    """What a report holds.

    Attributes:
        only: operations; empty for all.
        tiny: time at the small sizes, to see that all runs.
        budget: seconds in all, after which no further case begins.
        tests: seconds of the test suite, which is stopped then; 0 leaves it out.
        seconds: of timing per case.
        build: build the extension in this source tree first.
        json: where the results go; None takes bench/results, and nothing under the interpreter.
    """

    only: tuple[str, ...]
    tiny: bool
    budget: float
    tests: float
    seconds: float
    build: bool
    json: Path | None


def gpu_report(plan: Plan) -> int:
    """Run, print and write the report: 1 where a test or an operation failed, else 0.

    A target that is missed is no failure.
    """
    if plan.build:
        _build_and_start_again()
    started = time.monotonic()
    os.chdir(ROOT)
    target = gpu_target()
    if target.interpreter:
        _say(_REASON)
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    tests = run_tests(plan.tests) if plan.tests else None
    tiny = plan.tiny or target.interpreter
    path = plan.json
    if path is None and not tiny:
        path = RESULTS / f"gpu-{device_name()}.json"
    settings = Settings(
        threads=1 if tiny else torch.get_num_threads(),
        seconds=0.0 if tiny else plan.seconds,
        target=target,
        tiny=tiny,
        until=started + plan.budget,
    )

    def keep(document: dict[str, Any]) -> None:
        document |= {"tests": tests, "tiny": tiny, "goals": [] if tiny else judge(document)}
        document["seconds"] = round(time.monotonic() - started)
        _say(f"elapsed: {document['seconds']} s")
        if path is not None:
            report.write(document, path)

    rates = Rates(seconds=0.0 if tiny else 0.1, device=target.device)
    document = run(plan.only, settings, rates, keep)
    print(report.format_document(document))
    print(f"\n{format_goals(document['goals']) or 'targets: not judged at tiny sizes'}")
    if path is not None:
        print(f"\nwritten: {path}")
        _draw(document, path.with_suffix(""))
    if tests:
        print(f"\ntests: {tests['summary']}", *tests["failed"], sep="\n")
    passed = tests is None or tests["passed"]
    return 0 if passed and not document["failures"] else 1


def _build_and_start_again() -> None:
    """In a new process, as this one has imported the package without what is built."""
    build_in_place(ROOT)
    arguments = [argument for argument in sys.argv[1:] if argument != "--build"]
    os.execv(sys.executable, [sys.executable, "-m", "bench", *arguments])


def device_name() -> str:
    """Short name of the GPU, such as h200."""
    if not torch.cuda.is_available():
        return "interpreter"
    name = torch.cuda.get_device_name().lower().replace("rtx ", "rtx")
    words = re.findall(r"[a-z0-9]+", name)
    return next((word for word in words if re.fullmatch(r"[a-z]+\d+[a-z]*", word)), words[-1])


def run_tests(seconds: float) -> dict[str, Any]:
    """The test suite in a process of its own, its progress shown; stopped when its time is up."""
    options = [sys.executable, "-m", "pytest", "--quiet", "--color=no"]
    command = [*options, *_test_files()]
    started, lines = time.monotonic(), []
    # The tests choose for themselves what runs under the interpreter.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    with process:
        for line in process.stdout or ():
            _say(line.rstrip())
            lines.append(line.rstrip())
    timer.cancel()
    summary = next((line for line in reversed(lines) if line), "no output")
    return {
        "command": " ".join([*options[1:], "tests"]),
        "seconds": round(time.monotonic() - started, 1),
        "passed": process.returncode == 0,
        "summary": f"stopped after {seconds:g} s: {summary}" if stopped.is_set() else summary,
        "failed": [line for line in lines if line.startswith(("FAILED ", "ERROR "))],
    }


def _test_files() -> list[str]:
    """Those that a GPU is for come first, as time may run out; those that do without one what is
    done here with it, last."""

    def turn(file: Path) -> tuple[int, Path]:
        if file.stem.endswith(("compiles", "gpu_report")):
            return 2, file
        return 0 if "kernels" in file.parts or file.stem == "test_gpu" else 1, file

    files = (file.relative_to(ROOT) for file in (ROOT / "tests").rglob("test_*.py"))
    return [str(file) for file in sorted(files, key=turn)]


def _draw(document: dict[str, Any], folder: Path) -> None:
    try:
        drawn = plots.draw_gpu(document, folder)
    except (ImportError, ValueError) as error:
        print(f"no figures: {error}")
        return
    for figure in drawn:
        print(f"written: {figure}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
