"""What tests of packed sequences share."""

import numpy as np
import torch

from pdrec_fast.ops.packed._sequences import DropoutKey


def offsets(lengths, device="cpu"):
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()], device=device)


def key_for(lengths, seed=5, epoch=2):
    return DropoutKey(seed, epoch, torch.arange(len(lengths)) * 7 + 3)


def high_key_for(lengths, device, seed=2**64 - 3):
    """Of numbers that need all their bits."""
    users = 2**32 - 1 - 7 * torch.arange(len(lengths), device=device)
    return DropoutKey(seed, 2**32 - 2, users)
