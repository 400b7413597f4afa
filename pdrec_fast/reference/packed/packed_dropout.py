"""``packed_dropout`` in plain PyTorch."""

from __future__ import annotations

import torch

from pdrec_fast.reference.counter_rng import ragged_words


def packed_dropout(
    x: torch.Tensor,
    indptr: torch.Tensor,
    users: torch.Tensor,
    p: float,
    seed: int,
    epoch: int,
    stream: int,
) -> torch.Tensor:
    """See ``ops.packed.packed_dropout``; the arguments are checked there."""
    words = ragged_words(seed, epoch, users, indptr.diff() * x.shape[1], stream)
    keep = (words >= round(p * 2**32)).view(x.shape)
    return x * keep.to(x.device, x.dtype) / (1 - p)
