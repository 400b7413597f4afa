"""``packed_dropout`` in plain PyTorch."""

from __future__ import annotations

import torch

from pdrec_fast.operands import PackedDropout
from pdrec_fast.reference.counter_rng import ragged_words


def packed_dropout(x: torch.Tensor, words: PackedDropout) -> torch.Tensor:
    """See ``ops.packed.packed_dropout``; the arguments are checked there."""
    n_words = words.indptr.diff() * x.shape[1]
    word = ragged_words(words.seed, words.epoch, words.users, n_words, words.stream)
    keep = (word >= words.keep_from).view(x.shape)
    return x * keep.to(x.device, x.dtype) / (1 - words.p)
