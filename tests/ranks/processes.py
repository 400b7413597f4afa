"""Starts the processes of a mesh as torchrun does, without its seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import free_port, rank_environment

WORKER = str(Path(__file__).with_name("worker.py"))


def start(n: int, words: Sequence[str]) -> list[subprocess.Popen[str]]:
    """n processes of ``python words...``; of one, without what torchrun sets."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    port, started = free_port(), []
    for rank in range(n):
        started.append(
            subprocess.Popen(
                [sys.executable, *words],
                env=environment | rank_environment(rank, n, port),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finished(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of each."""
    ended = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, ended, strict=True)]
