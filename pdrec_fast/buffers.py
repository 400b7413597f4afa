"""Memory for large temporaries on the CPU, kept from one use to the next.

For an array above its mmap threshold, at most 32 MiB, malloc takes fresh pages from the system
every time, and the first touch of each page costs more than the arithmetic on it. A ``Buffers``
keeps the pages::

    buffers = Buffers()
    for batch in batches:
        with buffers.lent():
            step(batch)  # whose operations call empty and mm of this module
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_SMALLEST = 1 << 20  # bytes; malloc keeps the pages of smaller arrays itself
_here = threading.local()


class Buffers:
    """Blocks of memory that are lent to tensors and come back when the last of those is gone.

    A block is free again when no tensor uses its storage, wherever the tensor went: into a saved
    context, a gradient, a caller's hands. So nothing is ever overwritten that can still be read.
    What is kept is no more than what was in use at one time; it is released with this object.
    """

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []  # uint8
        self._lock = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let ``empty`` and ``mm`` take memory from here meanwhile, in the calling thread."""
        before = getattr(_here, "buffers", None)
        _here.buffers = self
        try:
            yield
        finally:
            _here.buffers = before

    @property
    def free_bytes(self) -> int:
        """Bytes that are kept and not in use."""
        return sum(len(block) for block in list(self._free))

    def _empty(self, shape: Sequence[int], dtype: torch.dtype, n_bytes: int) -> torch.Tensor:
        block = self._take(n_bytes)
        # A new array over the block, which lives as long as the storage made of it.
        array = block.numpy()
        weakref.finalize(array, _give_back, weakref.ref(self), block).atexit = False
        storage = torch.from_numpy(array).untyped_storage()
        strides = torch.empty(shape, device="meta").stride()
        return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape), strides)

    def _take(self, n_bytes: int) -> torch.Tensor:
        """The smallest free block that is large enough, or a new one instead of those too small."""
        with self._lock:
            # Meanwhile blocks may come back, but only at the end of the list.
            fitting = [(len(block), i) for i, block in enumerate(self._free)]
            fitting = [(size, i) for size, i in fitting if size >= n_bytes]
            if fitting:
                return self._free.pop(min(fitting)[1])
            self._free.clear()
        return torch.empty(n_bytes, dtype=torch.uint8)


def empty(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None
) -> torch.Tensor:
    """``torch.empty(shape, dtype=dtype, device=device)``, of the thread's ``Buffers`` where it is
    large and on the CPU."""
    buffers: Buffers | None = getattr(_here, "buffers", None)
    n_bytes = math.prod(shape) * dtype.itemsize
    on_cpu = device is None or device.type == "cpu"
    if buffers is None or not on_cpu or n_bytes < _SMALLEST:
        return torch.empty(shape, dtype=dtype, device=device)
    return buffers._empty(shape, dtype, n_bytes)


def mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``torch.mm(left, right)`` into ``empty``'s memory, where autograd need not record it."""
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        return torch.mm(left, right)
    shape = len(left), right.shape[1]
    return torch.mm(left, right, out=empty(shape, left.dtype, left.device))


def rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``table[index]``, whose gradient by the table [N, d] takes ``empty``'s memory.

    Args:
        index: int64 [n].
    """
    found: torch.Tensor = _Rows.apply(table, index)
    return found


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.of_table = table.shape, table.dtype, table.device
        return table[index]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        return empty(*ctx.of_table).zero_().index_add_(0, index, grad), None


def _give_back(owner: weakref.ref[Buffers], block: torch.Tensor) -> None:
    buffers = owner()
    if buffers is not None:
        buffers._free.append(block)
