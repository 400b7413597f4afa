"""Scores of the whole corpus from user vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.buffers import empty
from pdrec_fast.ops import onednn
from pdrec_fast.ops.dispatch import choose

# Below this many multiplications the conversion to oneDNN's tensors costs more than it brings.
_SMALL = 1 << 22


# 16 MiB of scores: they stay in a CPU's last cache, and below the size from which malloc takes
# fresh pages from the system every time. A GPU has neither, and would wait for every block's host.
_SCORES_PER_BLOCK = 1 << 22
_SCORES_PER_GPU_BLOCK = 1 << 27
# With so many items that few rows fill such a block, a product waits for the items' vectors, which
# are read once a block: there it has up to 32 rows, in 128 MiB (see ``buffers``), at least 8.
_ROWS, _LEAST_ROWS = 32, 8
_SCORES_PER_LARGE_BLOCK = 1 << 25
_MANY_ITEMS = _SCORES_PER_BLOCK // _ROWS
_ITEMS_PER_TILE = 1 << 14  # of the product of many rows with many items


def rows_per_block(n_items: int, *, on_gpu: bool = False) -> int:
    """How many users to score at once against ``n_items`` items."""
    if on_gpu:
        return max(_SCORES_PER_GPU_BLOCK // n_items, 1)
    large = min(max(_SCORES_PER_LARGE_BLOCK // n_items, _LEAST_ROWS), _ROWS)
    return max(_SCORES_PER_BLOCK // n_items, large)


@torch.no_grad()
def project(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``F.linear(vectors, table, bias)``: the scores of the whole corpus, without gradient.

    Args:
        vectors: [B, H], of a floating dtype.
        table: [N, H], of that dtype.
        bias: [N], or None.
        impl: ``"onednn"``: oneDNN's fp32 product, on a CPU. ``"torch"``: ``F.linear``, which is
            MKL's product there; in fp32 it takes about twice as long on AMD processors.

    Returns:
        [B, N], of that dtype.

    Raises:
        BackendError: the named implementation cannot run here.
    """
    problem = onednn.problem(vectors, table)
    if impl == "auto":
        large = vectors.numel() * len(table) >= _SMALL
        impl = "onednn" if problem is None and large else "torch"
    if choose("project", impl, {"onednn": problem, "torch": None}) == "torch":
        return F.linear(vectors, table, bias)
    return _onednn(vectors, table, bias)


def _onednn(vectors: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if len(table) <= _MANY_ITEMS or len(vectors) <= _LEAST_ROWS:
        return onednn.product(vectors, table, bias)
    scores = empty((len(vectors), len(table)), torch.float32)
    for start in range(0, len(table), _ITEMS_PER_TILE):
        tile = slice(start, start + _ITEMS_PER_TILE)
        scores[:, tile] = onednn.product(vectors, table[tile], None if bias is None else bias[tile])
    return scores
