"""Threads for work that calls torch's products: each computes alone, without torch's own threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Work = TypeVar("Work")
_pools: dict[int, ThreadPoolExecutor] = {}
# A child has none of its parent's threads.
os.register_at_fork(after_in_child=_pools.clear)


def run_on_threads(work: Callable[[Work], None], pieces: Sequence[Work]) -> None:
    """Call ``work`` for every piece, without gradients, on as many threads as torch would take.

    Each has one thread of torch, so that a piece's bits do not depend on their number.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        for piece in pieces:
            work(piece)
        return
    if n_threads not in _pools:
        _pools[n_threads] = _pool(n_threads)
    for _ in _pools[n_threads].map(work, pieces):
        pass


def _pool(n_threads: int) -> ThreadPoolExecutor:
    all_started = threading.Barrier(n_threads)

    def alone() -> None:
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)  # of this thread, but torch reports the last number set anywhere
        all_started.wait()

    pool = ThreadPoolExecutor(n_threads, "pdrec_fast", alone)
    for started in [pool.submit(int) for _ in range(n_threads)]:
        started.result()
    torch.set_num_threads(n_threads)
    return pool
