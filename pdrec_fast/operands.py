"""Arguments that belong together, as named tuples: operations, references and kernels share them.

A custom op's schema has their fields (``ops.declaration``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class PackedDropout(NamedTuple):
    """Packed sequences and whose random words their dropout takes.

    Attributes:
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``.
        users: int64 [B], in 0 .. 2**32 - 1.
        p: share of what is dropped, in [0, 1).
        seed: 64 bits in two's complement, as custom ops take integers.
        epoch, stream: in 0 .. 2**32 - 1.
    """

    indptr: torch.Tensor
    users: torch.Tensor
    p: float
    seed: int
    epoch: int
    stream: int

    @property
    def keep_from(self) -> int:
        """The least word for which an element is kept."""
        return round(self.p * 2**32)

    @property
    def keep_scale(self) -> float:
        """What kept elements are multiplied by."""
        return 1 / (1 - self.p)
