"""What the processes along one axis of a mesh do together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

from pdrec_fast.errors import RankLostError


@dataclass(frozen=True)
class Axis:
    """Some processes of a job in a row, one of them this. Of one process nothing is sent.

    Every method must be called by all of them, in the same order.

    Attributes:
        rank: of this process along the axis, from 0.
        size: how many processes there are.
        group: of ``torch.distributed``; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def share(self, n: int, multiple_of: int = 1) -> slice:
        """Which of n rows are this process's: equal shares of whole ``multiple_of`` rows, the
        first of them larger by one where it does not come out even."""
        return self.shares(n, multiple_of)[self.rank]

    def shares(self, n: int, multiple_of: int = 1) -> list[slice]:
        """The shares of all processes."""
        n_pieces = -(-n // multiple_of)
        each, more = divmod(n_pieces, self.size)
        stops = [(r * each + min(r, more)) * multiple_of for r in range(self.size + 1)]
        return [slice(min(a, n), min(b, n)) for a, b in pairwise(stops)]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            with reaching_others():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def gathered(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The rows of every process; their numbers may differ, dtype and further sizes may not."""
        if self.size == 1:
            return [rows]
        rows = rows.contiguous()
        counts = torch.zeros(self.size, dtype=torch.int64, device="cpu")
        counts[self.rank] = len(rows)
        most = int(self.sum_(counts).max())
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        with reaching_others():
            dist.all_gather(found, padded, group=self.group)
        return [each[:n] for each, n in zip(found, counts.tolist(), strict=True)]

    def from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first process's numbers, in place."""
        if self.size > 1:
            with reaching_others():
                dist.broadcast(tensor, group=self.group, group_src=0)
        return tensor


@contextmanager
def reaching_others() -> Iterator[None]:
    """Says plainly that another process is gone, which torch tells in its transports' words."""
    try:
        yield
    except RuntimeError as error:
        # "[.../pair.cc:553] Connection closed by peer [127.0.0.1]:46740. This is typically ..."
        first = re.sub(r"^\[[^]]*\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
        raise RankLostError(
            "another process of this job ended or cannot be reached; the last checkpoint is whole, "
            f"and the same command continues from it, on any mesh ({first})"
        ) from None
