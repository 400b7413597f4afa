"""Processes that do tasks which wait for one another, a few at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from pdrec_fast.files import make_directory, writing

_POLL_SECONDS = 0.2
_SECONDS_TO_END = 10.0
_SPARSE_BARS = {"TQDM_MININTERVAL": "30"}  # in the logs


@dataclass(frozen=True)
class Task:
    """A process to run.

    Attributes:
        name: of the task, distinct.
        command: program and arguments.
        log: file that its output is appended to.
        needs: name of the task that must have succeeded before, or "".
    """

    name: str
    command: tuple[str, ...]
    log: Path
    needs: str = ""


def run_tasks(
    tasks: Sequence[Task], n_parallel: int, *, done: int = 0, progress: bool = True
) -> dict[str, str]:
    """Do all tasks, the first ready ones first; one that fails stops only those that need it.

    A task's process has a pipe as its standard input that ends when this process does, however
    that happens (see ``end_with_parent``). When this function is left by an exception, as by
    Ctrl-C, every process has been ended.

    Args:
        done: tasks to count as done, in the progress bar.

    Returns:
        Name of each failed task -> its error.
    """
    waiting = list(tasks)
    running: dict[str, subprocess.Popen[bytes]] = {}
    logs = {task.name: task.log for task in tasks}
    failed: dict[str, str] = {}
    shown = progress and sys.stderr.isatty()
    bar = tqdm(desc="jobs", total=done + len(tasks), initial=done, disable=not shown)
    try:
        while waiting or running:
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                if status := running.pop(name).returncode:
                    failed[name] = _error(status, logs[name])
            while blocked := [task for task in waiting if task.needs in failed]:
                waiting.remove(blocked[0])
                failed[blocked[0].name] = f"not started: it needs {blocked[0].needs}, which failed"
                ended.append(blocked[0].name)
            for name in ended:
                done += 1
                bar.update()
                if progress:
                    said = f"failed: {failed[name]}" if name in failed else "finished"
                    tqdm.write(f"{done}/{bar.total} {name} {said}", file=sys.stderr)
            open_names = {task.name for task in waiting} | running.keys()
            for task in [task for task in waiting if task.needs not in open_names]:
                if len(running) < n_parallel:
                    waiting.remove(task)
                    running[task.name] = _start(task)
            bar.set_postfix_str(", ".join(running))
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        _end(list(running.values()))
        bar.close()
    return failed


def end_with_parent() -> None:
    """Called by a task's process: end it when ``run_tasks`` is gone."""

    def watch() -> None:
        # Not through sys.stdin, whose lock the interpreter could not take when it exits.
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(task: Task) -> subprocess.Popen[bytes]:
    make_directory(task.log.parent)
    with writing(task.log), task.log.open("ab") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which then ends the others.
        return subprocess.Popen(
            task.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | _SPARSE_BARS,
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error(status: int, log: Path) -> str:
    if status < 0:
        return f"killed by signal {-status} (9: perhaps out of memory); see {log}"
    lines = log.read_text(errors="replace").strip().splitlines()
    if not lines and not shutil.disk_usage(log.parent).free:
        return f"no space is left for its log ({log}); make room and give the same command again"
    return f"{lines[-1] if lines else f'exit status {status}'} ({log})"
