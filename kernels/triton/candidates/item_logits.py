"""Logits of candidate items: gathered rows of the table times the states, and a bias."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import (
    Tile,
    logit_scale,
    number,
    products,
    similarity_arguments,
    tile_arguments,
    tile_of,
    token_places,
)
from pdrec_fast.operands import Candidates, Similarity


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
    LEARNED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks_per_token = tl.cdiv(n_candidates, BLOCK_C)
    block = tl.program_id(0)
    tokens = (block // blocks_per_token).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    start = (block % blocks_per_token) * BLOCK_C
    token_mask = tokens < n_tokens
    _, mask, at = token_places(start, tokens, token_mask, n_candidates, BLOCK_C)
    items = tl.load(items_ptr + at, mask=mask, other=-1).to(tl.int64)
    in_table = (items >= 0) & (items < n_items)
    dots, state_squares, item_squares = products(
        states_ptr, table_ptr, tokens, token_mask, items, in_table, width, COSINE, BLOCK_D
    )
    logits = dots * logit_scale(state_squares, item_squares, number(temperature, LEARNED), COSINE)
    if HAS_BIAS:
        logits += tl.load(bias_ptr + items, mask=in_table, other=0.0).to(tl.float32)
    refused = tl.where(items == -1, float("-inf"), float("nan"))
    tl.store(logits_ptr + at, tl.where(in_table, logits, refused), mask=mask)


def item_logits(
    candidates: Candidates,
    similarity: Similarity,
    bias: torch.Tensor | None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[T, C] float32; NaN for an item outside the table, which is not read."""
    items = candidates.items
    n_tokens, n_candidates = items.shape
    tile = tile or tile_of(candidates)
    logits = torch.empty(items.shape, dtype=torch.float32, device=items.device)
    n_blocks = triton.cdiv(n_tokens, tile.tokens) * triton.cdiv(n_candidates, tile.candidates)
    if n_blocks == 0:
        return logits
    with torch.cuda.device_of(items):
        _logits_kernel[(n_blocks,)](
            bias_ptr=logits if bias is None else bias.contiguous(),
            logits_ptr=logits,
            **similarity_arguments(similarity),
            HAS_BIAS=bias is not None,
            **tile_arguments(candidates, tile),
        )
    return logits
