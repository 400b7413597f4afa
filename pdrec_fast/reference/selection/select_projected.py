"""``select_projected`` from the matrix of scores, in plain PyTorch on any device."""

from __future__ import annotations

import torch

from pdrec_fast.random_keys import NEGATIVES
from pdrec_fast.reference.counter_rng import bounded, philox4x32

_LIST_BELOW = 64
"""A pool that would not fill N this many times over is listed."""

_SCORES_AT_ONCE = 1 << 26

Selected = tuple[torch.Tensor, ...]


def projected_scores(
    vectors: torch.Tensor, table: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """float32 [B, N], under autocast too; products of bfloat16 are exact in float32."""
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.addmm(bias.float(), vectors.to(table.dtype).float(), table.float().T)


def row_of(indptr: torch.Tensor, n_entries: int) -> torch.Tensor:
    """The row of each of ``n_entries`` entries, int64; does not wait for the device."""
    rows = torch.arange(len(indptr) - 1, device=indptr.device)
    return rows.repeat_interleave(indptr.diff(), output_size=n_entries)


def select_materialized(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
    n_draws: int,
    seed: int,
    epoch: int,
    users: torch.Tensor,
) -> Selected:
    """See ``pdrec_fast.ops.selection.select_projected``; the arguments are checked there.

    Raises:
        ValueError: a score is NaN.
    """
    step = max(_SCORES_AT_ONCE // len(table), 1)
    if len(vectors) > step:
        bounds = [*indptr[::step].tolist(), len(items)]
        parts = []
        for block, start in enumerate(range(0, len(vectors), step)):
            of_block = slice(start, start + step)
            parts.append(
                select_materialized(
                    vectors[of_block],
                    table,
                    bias,
                    indptr[start : start + step + 1] - bounds[block],
                    items[bounds[block] : bounds[block + 1]],
                    top_m,
                    first_rank[of_block],
                    n_draws,
                    seed,
                    epoch,
                    users[of_block],
                )
            )
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    scores = projected_scores(vectors, table, bias)
    if scores.isnan().any():
        raise ValueError("scores must not be NaN")
    n_items = scores.shape[1]
    rows = row_of(indptr, len(items))
    observed = torch.zeros_like(scores, dtype=torch.bool)
    observed[rows, items.long()] = True
    order = scores.masked_fill(observed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    # An unobserved score can be -inf as well: only then does this change the order.
    order = order.gather(1, observed.gather(1, order).byte().argsort(dim=1, stable=True))
    n_unobserved = n_items - indptr.diff()
    top_items = torch.full((len(scores), top_m), -1, dtype=torch.int32, device=scores.device)
    width = min(top_m, n_items)
    missing = torch.arange(width, device=scores.device) >= n_unobserved[:, None]
    top_items[:, :width] = order[:, :width].masked_fill(missing, -1).int()
    threshold = order.gather(1, first_rank[:, None])
    ranks = torch.arange(n_items, device=scores.device)
    pooled = (ranks >= first_rank[:, None]) & (ranks < n_unobserved[:, None])
    pools = torch.zeros_like(observed).scatter_(1, order, pooled)
    return (
        top_items,
        scores.gather(1, threshold)[:, 0],
        threshold[:, 0].int(),
        scores[rows, items.long()],
        draw_from_masks(pools, n_draws, seed, epoch, users),
    )


def draw_from_masks(
    pools: torch.Tensor, n_draws: int, seed: int, epoch: int, users: torch.Tensor
) -> torch.Tensor:
    """int32 [B, n_draws], as ``ops.pool_sampling`` defines the draws, from masks [B, N]."""
    n_rows, n_items = pools.shape
    sizes = pools.sum(1, keepdim=True)
    listed = sizes * _LIST_BELOW < n_items
    n_words = 4 * n_draws
    while True:
        word = _words(seed, epoch, users, n_words)
        below = pools.cumsum(1)
        of_list = torch.searchsorted(below, bounded(word, sizes) + 1)
        candidates = torch.where(listed, of_list, bounded(word, n_items))
        accepted = pools.gather(1, candidates)
        place = accepted.cumsum(1) - 1
        if not n_rows or bool((place[:, -1:] + 1 >= n_draws).all()):
            break
        n_words *= 2
    place = torch.where(accepted & (place < n_draws), place, n_draws)
    draws = pools.new_empty((n_rows, n_draws + 1), dtype=torch.int32)
    return draws.scatter_(1, place, candidates.int())[:, :n_draws]


def _words(seed: int, epoch: int, users: torch.Tensor, n_words: int) -> torch.Tensor:
    """int64 [B, n_words], on the device of ``users``."""
    counter = users.new_empty((len(users), n_words // 4, 4))
    counter[..., 0] = torch.arange(n_words // 4, device=users.device)
    counter[..., 1] = users[:, None]
    counter[..., 2] = epoch
    counter[..., 3] = NEGATIVES
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).flatten(1)
