"""Scores of the whole corpus from user vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.ops.dispatch import choose

# Below this many multiplications the conversion to oneDNN's tensors costs more than it brings.
_SMALL = 1 << 22


# 16 MiB of scores: they stay in a CPU's last cache, and below the size from which malloc takes
# fresh pages from the system every time. A GPU has neither, and would wait for every block's host.
_SCORES_PER_BLOCK = 1 << 22
_SCORES_PER_GPU_BLOCK = 1 << 27
# For fewer the product waits for the table, which is read once a block: with a million items 8 rows
# take little more than 4.
_LEAST_ROWS = 8


def rows_per_block(n_items: int, *, on_gpu: bool = False) -> int:
    """How many users to score at once against ``n_items`` items."""
    most = _SCORES_PER_GPU_BLOCK if on_gpu else _SCORES_PER_BLOCK
    return max(most // n_items, _LEAST_ROWS)


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
    onednn = None
    if vectors.device.type != "cpu" or {vectors.dtype, table.dtype} != {torch.float32}:
        onednn = "it multiplies float32 on a CPU"
    elif not torch.backends.mkldnn.is_available():
        onednn = "this torch was built without it"
    if impl == "auto":
        large = vectors.numel() * len(table) >= _SMALL
        impl = "onednn" if onednn is None and large else "torch"
    if choose("project", impl, {"onednn": onednn, "torch": None}) == "torch":
        return F.linear(vectors, table, bias)
    return _onednn(vectors, table, bias)


def _onednn(vectors: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Both ways give the same bits."""
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if fused is not None:  # what torch's compiler calls: dense in and out, without copies
        scores: torch.Tensor = fused(vectors, table, bias, "none", [], "")
        return scores
    return F.linear(vectors.to_mkldnn(), table, bias).to_dense()
