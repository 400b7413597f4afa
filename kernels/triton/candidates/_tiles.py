"""What the kernels over candidate items share: products of states with rows of a table, and tiles.

A tile holds some tokens, some candidates of each and some columns of their vectors, so that a state
is read once for the candidates beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from pdrec_fast.operands import Candidates, LogitGradients, Similarity

NORM_EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize

_TILE_ELEMENTS = 2048


class Tile(NamedTuple):
    """Powers of two: tokens, candidates and columns that a program holds at a time; its warps.

    Not tuned at run time: another tile may round otherwise, and a seed is to give one model.
    """

    tokens: int
    candidates: int
    columns: int
    warps: int = 4


def default_tile(n_candidates: int, width: int) -> Tile:
    """All columns up to 128 and all candidates up to 16, then as many tokens as fit."""
    columns = min(triton.next_power_of_2(max(width, 1)), 128)
    candidates = min(triton.next_power_of_2(max(n_candidates, 1)), 16)
    tokens = min(max(_TILE_ELEMENTS // (columns * candidates), 1), 64)
    return Tile(tokens, candidates, columns)


def tile_of(candidates: Candidates) -> Tile:
    return default_tile(candidates.items.shape[1], candidates.table.shape[1])


def arguments(candidates: Candidates) -> dict[str, Any]:
    """The arguments of these names that every kernel over candidates takes."""
    states, table, items = candidates
    return {
        "states_ptr": states.contiguous(),
        "table_ptr": table.contiguous(),
        "n_candidates": items.shape[1],
        "n_items": len(table),
        "width": table.shape[1],
    }


def tile_arguments(candidates: Candidates, tile: Tile) -> dict[str, Any]:
    """Those of every kernel over tiles of tokens, candidates and columns."""
    return {
        **arguments(candidates),
        "items_ptr": candidates.items.contiguous(),
        "n_tokens": len(candidates.items),
        "BLOCK_T": tile.tokens,
        "BLOCK_C": tile.candidates,
        "BLOCK_D": tile.columns,
        "num_warps": tile.warps,
    }


def similarity_arguments(similarity: Similarity) -> dict[str, Any]:
    """Those of every kernel of a loss."""
    return {
        "temperature": similarity.scale,
        "COSINE": similarity.cosine,
        "LEARNED": similarity.learned is not None,
    }


def launch_loss(
    kernel: Any,
    candidates: Candidates,
    weights: torch.Tensor,
    similarity: Similarity,
    tile: Tile | None,
    **own: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, its ``LogitGradients``), float32, by a kernel that writes a loss for each token.

    ``own``: arguments of this kernel alone.
    """
    tile = tile or tile_of(candidates)
    gradients = LogitGradients.empty(candidates.items)
    losses = torch.empty_like(gradients.grad_state)
    with torch.cuda.device_of(candidates.states):
        kernel[(triton.cdiv(len(losses), tile.tokens),)](
            weights_ptr=weights.contiguous(),
            losses_ptr=losses,
            grad_dot_ptr=gradients.grad_dot,
            grad_item_ptr=gradients.grad_item,
            grad_state_ptr=gradients.grad_state,
            **similarity_arguments(similarity),
            **tile_arguments(candidates, tile),
            **own,
        )
    return losses.sum(), *gradients


@triton.jit
def number(value, LEARNED: tl.constexpr):
    """A temperature, which comes as itself or, where it is learned, as a pointer."""
    if LEARNED:
        return tl.load(value)
    else:
        return value


@triton.jit
def token_places(start, tokens, token_mask, n_candidates, BLOCK_C: tl.constexpr):
    """(candidates' columns [c] from ``start`` on, which places [t, c] exist, their offsets)."""
    columns = start + tl.arange(0, BLOCK_C)
    mask = token_mask[:, None] & (columns < n_candidates)[None, :]
    return columns, mask, tokens[:, None] * n_candidates + columns[None, :]


@triton.jit
def products(
    states_ptr,
    table_ptr,
    tokens,
    token_mask,
    items,
    wanted,
    width,
    COSINE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(dots [t, c], squares of the states [t], squares of the items [t, c]).

    0 where an item is not ``wanted``, and then it is not read; squares are for cosines only.
    """
    dots = tl.zeros(items.shape, tl.float32)
    state_squares = tl.zeros(tokens.shape, tl.float32)
    item_squares = tl.zeros(items.shape, tl.float32)
    for start in range(0, width, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = columns < width
        states = tl.load(
            states_ptr + tokens[:, None] * width + columns[None, :],
            mask=token_mask[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        rows = tl.load(
            table_ptr + items[:, :, None] * width + columns[None, None, :],
            mask=wanted[:, :, None] & inside[None, None, :],
            other=0.0,
        ).to(tl.float32)
        dots += tl.sum(states[:, None, :] * rows, axis=2)
        if COSINE:
            state_squares += tl.sum(states * states, axis=1)
            item_squares += tl.sum(rows * rows, axis=2)
    return dots, state_squares, item_squares


@triton.jit
def norm_at_least_eps(squares):
    norms = tl.sqrt_rn(squares)  # sqrt and / are off by units on a GPU, which large logits magnify
    return tl.where(norms < NORM_EPS, NORM_EPS, norms)


@triton.jit
def logit_scale(state_squares, item_squares, temperature, COSINE: tl.constexpr):
    """[t, c]: what makes a dot product a logit."""
    if COSINE:
        norms = norm_at_least_eps(state_squares)[:, None] * norm_at_least_eps(item_squares)
        return tl.div_rn(temperature, norms)
    else:
        return tl.full(item_squares.shape, 1.0, tl.float32)


@triton.jit
def own_multiple(product, squares, COSINE: tl.constexpr):
    """The multiple of its own vector in the gradient of a vector that cosines normalise.

    ``product`` is the sum of its logits times their derivatives. A norm below eps counts as
    constant.
    """
    if COSINE:
        return -product / tl.where(tl.sqrt_rn(squares) < NORM_EPS, float("inf"), squares)
    else:
        return tl.zeros(product.shape, tl.float32)


@triton.jit
def _log1p_of_fraction(x):
    """ln(1 + x) for x in [0, 1], as 2 artanh(x / (2 + x)): keeps the digits of a small x."""
    s = x / (2.0 + x)
    z = s * s
    q = 0.14012232 * z + 0.1399957
    q = q * z + 0.2001085
    q = q * z + 0.33333206
    return 2.0 * (s + s * z * q)


@triton.jit
def softplus(x):
    """(softplus(x), its derivative); NaN for NaN."""
    decay = tl.exp(-tl.abs(x))
    loss = tl.where(x < 0, 0.0, x) + _log1p_of_fraction(decay)
    return loss, tl.where(x < 0, decay, 1.0) / (1.0 + decay)
