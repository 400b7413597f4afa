"""Processes: order, failures, and none left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdrec_fast.studies import pool
from pdrec_fast.studies.pool import Task, run_tasks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def task(tmp_path):
    """``task(name, code, needs)``: a task that runs Python code in ``tmp_path``."""

    def make(name, code="", needs=""):
        prelude = f"import os, sys, time; os.chdir({str(tmp_path)!r})\n"
        log = tmp_path / "logs" / f"{name}.txt"
        return Task(name, (sys.executable, "-c", prelude + code), log, needs)

    return make


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(pool, "_POLL_SECONDS", 0.01)


def note(text):
    return f"print({text!r}, file=open('order', 'a'), end=' ')"


def test_a_task_waits_for_the_one_it_needs(task, tmp_path):
    slow = "time.sleep(0.3); " + note("a")
    tasks = [task("b", note("b"), needs="a"), task("a", slow), task("c", note("c"))]
    assert run_tasks(tasks, 2, progress=False) == {}
    assert (tmp_path / "order").read_text() == "c a b "


def test_a_task_may_need_one_that_was_done_before(task, tmp_path):
    assert run_tasks([task("b", note("b"), needs="done earlier")], 1, progress=False) == {}
    assert (tmp_path / "order").read_text() == "b "


def test_no_more_at_a_time_than_asked(task, tmp_path):
    code = (
        "open(f'on-{os.getpid()}', 'w'); time.sleep(0.1)\n"
        "n = len([f for f in os.listdir() if f.startswith('on-')])\n"
        "print(n, file=open('counts', 'a')); os.remove(f'on-{os.getpid()}')"
    )
    assert run_tasks([task(str(n), code) for n in range(5)], 2, progress=False) == {}
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 5
    assert max(counts) == 2


def test_a_failure_is_reported_and_stops_only_what_needs_it(task, tmp_path, capsys):
    tasks = [
        task("a", "print('begin'); raise KeyError('no such thing')"),
        task("b", note("b"), needs="a"),
        task("c", note("c"), needs="b"),
        task("d", note("d")),
        task("e", "os.kill(os.getpid(), 9)"),
    ]
    failed = run_tasks(tasks, 1)
    assert (tmp_path / "order").read_text() == "d "
    assert failed.keys() == {"a", "b", "c", "e"}
    assert failed["a"] == f"KeyError: 'no such thing' ({tmp_path}/logs/a.txt)"
    assert failed["b"] == "not started: it needs a, which failed"
    assert failed["c"] == "not started: it needs b, which failed"
    assert failed["e"].startswith("killed by signal 9")
    assert "begin" in (tmp_path / "logs" / "a.txt").read_text()
    lines = capsys.readouterr().err
    assert "a failed: KeyError" in lines
    assert "d finished" in lines


def test_a_log_is_continued(task, tmp_path):
    for _ in range(2):
        run_tasks([task("a", "print('hello')")], 1, progress=False)
    assert (tmp_path / "logs" / "a.txt").read_text() == "hello\nhello\n"


def fifo(tmp_path):
    """A path: whoever opens it to write holds it open until it ends."""
    os.mkfifo(tmp_path / "alive")
    return os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def written(reader):
    """What a writer has written since; b"" where there is no writer, None where it was silent."""
    try:
        return os.read(reader, 100)
    except BlockingIOError:
        return None


ALIVE = "print('x', file=(alive := open('alive', 'w')), flush=True); time.sleep(600)"


def test_an_interrupt_ends_the_processes(task, tmp_path, monkeypatch):
    reader = fifo(tmp_path)

    def show(bar, running):
        if written(reader):
            raise KeyboardInterrupt

    monkeypatch.setattr(pool.tqdm, "set_postfix_str", show)
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task("a", ALIVE), task("b")], 1, progress=False)
    assert written(reader) == b""
    assert not (tmp_path / "logs" / "b.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path, number):
    reader = fifo(tmp_path)
    watched = "from pdrec_fast.studies.pool import end_with_parent; end_with_parent()"
    child = f"{watched}\nimport time\n{ALIVE}"
    parent = (
        "import sys\nfrom pathlib import Path\n"
        "from pdrec_fast.studies.pool import Task, run_tasks\n"
        f"run_tasks([Task('a', (sys.executable, '-c', {child!r}), Path('log'))], 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: written(reader))
    assert written(reader) is None
    process.send_signal(number)
    process.wait(60)
    wait_for(lambda: written(reader) == b"")
