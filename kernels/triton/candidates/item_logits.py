"""Logits of candidate items: gathered rows of the table times the states, and a bias.

One call reads T d + min(T C, N) d numbers of states and table, 8 T C bytes of int64 items, and
writes 4 T C bytes; it does 2 T C d operations (4 T C d for cosines). At 256 x 100 candidates of
width 64 in fp32 that is 6.6 MB gathered and 3 MFLOP: half an operation per byte, against some 20
that an H100 could do in fp32 per byte it reads. So it is bound by the gathers, 2 us at 3.35 TB/s
(1.4 us at an H200's 4.8), from L2 (50 MB) where the table fits there; tensor cores have nothing to
do, as each state meets rows of its own. At 65,536 x 100 these are 1.7 GB through L2, some 0.3 ms,
and instructions 0.5 ms: for cosines in fp32, as compiled for sm_90, a thread takes 28 for each
gathered element.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import Tile, default_tile, logit_scale, products


@triton.jit(do_not_specialize=["n_tokens"])
def _logits_kernel(
    states_ptr,
    table_ptr,
    items_ptr,
    bias_ptr,
    logits_ptr,
    n_tokens,
    n_candidates,
    n_items,
    width,
    temperature,
    COSINE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks_per_token = tl.cdiv(n_candidates, BLOCK_C)
    block = tl.program_id(0)
    tokens = (block // blocks_per_token).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = (block % blocks_per_token) * BLOCK_C + tl.arange(0, BLOCK_C)
    token_mask = tokens < n_tokens
    mask = token_mask[:, None] & (columns < n_candidates)[None, :]
    at = tokens[:, None] * n_candidates + columns[None, :]
    items = tl.load(items_ptr + at, mask=mask, other=-1).to(tl.int64)
    in_table = (items >= 0) & (items < n_items)
    dots, state_squares, item_squares = products(
        states_ptr, table_ptr, tokens, token_mask, items, in_table, width, COSINE, BLOCK_D
    )
    logits = dots * logit_scale(state_squares, item_squares, temperature, COSINE)
    if HAS_BIAS:
        logits += tl.load(bias_ptr + items, mask=in_table, other=0.0).to(tl.float32)
    refused = tl.where(items == -1, float("-inf"), float("nan"))
    tl.store(logits_ptr + at, tl.where(in_table, logits, refused), mask=mask)


def item_logits(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    cosine: bool,
    temperature: float,
    bias: torch.Tensor | None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[T, C] float32; NaN for an item outside the table, which is not read."""
    n_tokens, n_candidates = items.shape
    n_items, width = table.shape
    tile = tile or default_tile(n_candidates, width)
    logits = torch.empty(items.shape, dtype=torch.float32, device=states.device)
    n_blocks = triton.cdiv(n_tokens, tile.tokens) * triton.cdiv(n_candidates, tile.candidates)
    if n_blocks == 0:
        return logits
    with torch.cuda.device_of(states):
        _logits_kernel[(n_blocks,)](
            states.contiguous(),
            table.contiguous(),
            items.contiguous(),
            logits if bias is None else bias.contiguous(),
            logits,
            n_tokens,
            n_candidates,
            n_items,
            width,
            temperature,
            COSINE=cosine,
            HAS_BIAS=bias is not None,
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.candidates,
            BLOCK_D=tile.columns,
            num_warps=tile.warps,
        )
    return logits
