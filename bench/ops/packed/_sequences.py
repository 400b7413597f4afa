"""What benchmarks of packed sequences share: a training batch, its dropout, sizes."""

from __future__ import annotations

from typing import Any

import torch

import pdrec_fast as pf
from bench.data import split
from pdrec_fast.data.sequences import pack
from pdrec_fast.ops.packed._sequences import DropoutKey

DROPOUT, MAX_LENGTH = 0.2, 200
SIZES: dict[str, Any] = {"users": 128, "items": 37_868, "width": 64, "precision": "fp32"}
FIELDS: dict[str, Any] = {
    "sizes": SIZES,
    "gpu_sizes": (SIZES | {"users": 7_996}, SIZES, SIZES | {"users": 7_996, "precision": "bf16"}),
    "small": {"users": 5, "items": 301, "width": 8, "precision": "fp32"},
    "check_at_size": True,
}
"""Of an ``@operation`` on one batch."""
OTHER_NUMBERS = "other random numbers"


def batch_of(users: int, items: int) -> pf.PackedSequences:
    return pack(split(users, items).train.histories(), MAX_LENGTH)


def indptr_and_key(
    batch: pf.PackedSequences, device: torch.device
) -> tuple[torch.Tensor, DropoutKey]:
    """(indptr, key) on ``device``."""
    return batch.indptr.to(device), DropoutKey(0, 0, torch.arange(len(batch), device=device))
