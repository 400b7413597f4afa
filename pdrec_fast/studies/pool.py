"""Processes that do tasks which wait for one another, a few at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
        done: tasks to count as done, in the line on progress.

    Returns:
        Name of each failed task -> its error.
    """
    waiting = list(tasks)
    running: dict[str, subprocess.Popen[bytes]] = {}
    logs = {task.name: task.log for task in tasks}
    failed: dict[str, str] = {}
    line = _ProgressLine(done, len(tasks), n_parallel, shown=progress)
    try:
        while waiting or running:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                status = running.pop(name).returncode
                if status:
                    failed[name] = _error(status, logs[name])
                line.ended(name, failed.get(name))
            while blocked := [task for task in waiting if task.needs in failed]:
                task = blocked[0]
                waiting.remove(task)
                failed[task.name] = f"not started: it needs {task.needs}, which failed"
                line.ended(task.name, failed[task.name])
            open_names = {task.name for task in waiting} | running.keys()
            for task in [task for task in waiting if task.needs not in open_names]:
                if len(running) < n_parallel:
                    waiting.remove(task)
                    running[task.name] = _start(task)
            line.show(list(running))
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        _end(list(running.values()))
        line.close()
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
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
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
    return f"{lines[-1] if lines else f'exit status {status}'} ({log})"


class _ProgressLine:
    """One line on a terminal, rewritten; elsewhere one line for every task that ended."""

    def __init__(self, done: int, new: int, n_parallel: int, *, shown: bool) -> None:
        self.done, self.total, self.new, self.n_parallel = done, done + new, 0, n_parallel
        self.stream: IO[str] = sys.stderr
        self.shown, self.rewrites = shown, shown and sys.stderr.isatty()
        self.started = time.monotonic()
        self._width = 0

    def ended(self, name: str, error: str | None) -> None:
        self.done, self.new = self.done + 1, self.new + 1
        if self.shown and error is not None:
            self._print(f"{name} failed: {error}\n")
        elif self.shown and not self.rewrites:
            self._print(f"{self._figures()}; finished {name}\n")

    def show(self, running: Sequence[str]) -> None:
        if self.rewrites:
            self._print(f"{self._figures()}; running {', '.join(running) or 'nothing'}")

    def close(self) -> None:
        if self.rewrites:
            self._print("\n")

    def _figures(self) -> str:
        elapsed = time.monotonic() - self.started
        text = f"{self.done}/{self.total} jobs, {_duration(elapsed)}"
        if self.new and self.done < self.total:
            left = elapsed / self.new * (self.total - self.done)
            text += f", about {_duration(left)} left"
        return text

    def _print(self, text: str) -> None:
        if self.rewrites:
            # Over the whole of what stands there.
            body, end = text.rstrip("\n"), "\n" if text.endswith("\n") else ""
            text = f"\r{body.ljust(self._width)}{end}"
            self._width = 0 if end else len(body)
        self.stream.write(text)
        self.stream.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
