"""The processes of a job as a grid: one axis shares the users, the other the items."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from pdrec_fast.devices import resolve_device
from pdrec_fast.errors import DataError, RankLostError
from pdrec_fast.ranks.axis import Axis

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("pdrec_fast")
# One process may work alone for long, as when it writes a checkpoint, while the others wait.
_PATIENCE = timedelta(hours=2)


class Mesh:
    """The processes that ``torchrun`` started, users x items; one process where it started none.

    Rank r stands at ``(r // items, r % items)``. What is trained over a mesh takes the same steps
    on any mesh: the same users, noise, dropout and negatives, so that results are equal to
    rounding. Use it as a context manager, or ``close`` it at the end.

    Args:
        users: processes that share the users of a step; None for all that ``items`` leaves.
        items: processes that share whatever has a row for each item.
        device: where each process computes; ``"auto"`` is the GPU of its number on its machine
            (``LOCAL_RANK``) where there is one.

    Attributes:
        users, items, all: the axes, and all processes in a row.
        rank: of this process; 0 is the one that prints and writes.
        device: of this process.

    Raises:
        ValueError: users x items is not the number of processes.
    """

    def __init__(
        self, users: int | None = None, items: int = 1, *, device: str | torch.device = "auto"
    ) -> None:
        _, world = launched()
        if dist.is_available() and dist.is_initialized():
            world = dist.get_world_size()
        if users is None:
            users = max(world // max(items, 1), 1)
        if users < 1 or items < 1 or users * items != world:
            raise ValueError(
                f"a mesh of {users} x {items} (users x items) needs {users * items} processes, "
                f"and there are {world}: start them with torchrun --nproc-per-node, or choose "
                "another mesh"
            )
        self.device = _own_device(device)
        self.rank, self.users, self.items, self.all = 0, Axis(), Axis(), Axis()
        self._level: int | None = None  # of the log, before
        if world == 1:
            return
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
            # Not by ``close``: who joins a second time finds the first one's addresses, and waits.
            atexit.register(_leave)
        self.rank = dist.get_rank()
        grid = init_device_mesh(self.device.type, (users, items), mesh_dim_names=("users", "items"))
        self.users = Axis(self.rank // items, users, grid.get_group("users"))
        self.items = Axis(self.rank % items, items, grid.get_group("items"))
        self.all = Axis(self.rank, world, dist.group.WORLD)
        if self.rank:  # one of them tells what all of them do
            self._level = _log.level
            _log.setLevel(logging.ERROR)

    def close(self) -> None:
        """Let this process's log speak for itself again. The processes stay connected until they
        end, so that another mesh can follow."""
        if self._level is not None:
            _log.setLevel(self._level)
        self._level = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Mesh(users={self.users.size}, items={self.items.size})"

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def agreed(self, value: float) -> float:
        """The first process's number, for all: what depends on clocks or files is decided once."""
        return float(self.all.from_first(torch.tensor(value, dtype=torch.float64, device="cpu")))

    def any(self, found: bool) -> bool:
        """Whether any process found something."""
        return bool(self.all.sum_(torch.tensor(int(found), device="cpu")))

    def check_alike(self, given: Mapping[str, Any]) -> None:
        """Refuse to go on where a process was given other JSON values than the first.

        Raises:
            DataError: on all processes.
        """
        text = json.dumps(given, sort_keys=True)
        own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        first = self.all.from_first(torch.tensor(own, device="cpu"))
        if self.any(int(first) != own):
            raise DataError(
                "the processes of this job have different data or settings: start all of them with "
                "the same command, and let all see the same files"
            )

    def once(self, work: Callable[[], None]) -> None:
        """Let the first process work while the others wait for it.

        Raises:
            RankLostError: it failed; its own error is raised there.
        """
        failed: Exception | None = None
        if self.is_first:
            try:
                work()
            except Exception as error:  # an interrupted process leaves at once; that tells, too
                failed = error
        if self.any(failed is not None):
            if failed is not None:
                raise failed
            raise RankLostError("the first process failed; its error says why")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


ALONE = Mesh.__new__(Mesh)  # one process, whatever torchrun has started
ALONE.rank, ALONE.device, ALONE._level = 0, torch.device("cpu"), None
ALONE.users = ALONE.items = ALONE.all = Axis()


def launched() -> tuple[int, int]:
    """(rank, number of processes) as ``torchrun`` says in the environment; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")) if world > 1 else 0), world


def mesh_sizes(text: str) -> tuple[int | None, int]:
    """(users, items) of ``"users=4,items=2"``; either may be left out.

    Raises:
        ValueError: it is none such.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(users|items)\s*=\s*([1-9][0-9]*)\s*", part)
        if match is None or match[1] in found:
            raise ValueError(
                f"--mesh {text}: write it as users=4,items=2, two numbers of processes"
            )
        found[match[1]] = int(match[2])
    return found.get("users"), found.get("items", 1)


def _own_device(device: str | torch.device) -> torch.device:
    local = os.environ.get("LOCAL_RANK")
    if str(device) == "auto" and local is not None and torch.cuda.is_available():
        own = torch.device("cuda", int(local) % torch.cuda.device_count())
        torch.cuda.set_device(own)
        return own
    return resolve_device(device)
