"""``select_projected`` from the matrix of scores, in plain PyTorch."""

from __future__ import annotations

import torch

from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.operands import DrawKey, ObservedRows, Projection
from pdrec_fast.ragged import Ragged
from pdrec_fast.random_keys import NEGATIVES
from pdrec_fast.reference.counter_rng import bounded, philox4x32
from pdrec_fast.reference.selection.sample_pool import sample_pool
from pdrec_fast.reference.selection.select_unobserved import select_unobserved

_LIST_BELOW = 64
"""A pool that would not fill N this many times over is listed."""

_SCORES_AT_ONCE = 1 << 26

Selected = tuple[torch.Tensor, ...]


def projected_scores(projection: Projection) -> torch.Tensor:
    """float32 [B, N], under autocast too; products of bfloat16 are exact in float32."""
    vectors, table, bias = projection
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.addmm(bias.float(), vectors.to(table.dtype).float(), table.float().T)


def row_of(indptr: torch.Tensor, n_entries: int) -> torch.Tensor:
    """The row of each of ``n_entries`` entries, int64; does not wait for the device."""
    rows = torch.arange(len(indptr) - 1, device=indptr.device)
    return rows.repeat_interleave(indptr.diff(), output_size=n_entries)


def select_projected(
    projection: Projection, observed: ObservedRows, top_m: int, n_draws: int, key: DrawKey
) -> Selected:
    """By the references of the two operations, on a CPU; see ``ops.selection.select_projected``,
    which checks the arguments.

    Raises:
        NonFiniteScoresError: a score is NaN.
    """
    scores = _numbers(projected_scores(projection))
    indptr, items, first_rank = observed
    rows = Ragged(items.numpy(), indptr.numpy())
    chosen = select_unobserved(scores, rows, top_m, first_rank.numpy())
    thresholds = chosen[1].numpy(), chosen[2].numpy()
    draws, _ = sample_pool(scores, rows, *thresholds, n_draws, key, True)
    return *chosen, scores[row_of(indptr, len(items)), items.long()], draws


def select_materialized(
    projection: Projection, observed: ObservedRows, top_m: int, n_draws: int, key: DrawKey
) -> Selected:
    """The same by sorts and masks of all rows at once, on any device."""
    vectors, table, bias = projection
    step = max(_SCORES_AT_ONCE // len(table), 1)
    if len(vectors) > step:
        parts = []
        for start in range(0, len(vectors), step):
            block = slice(start, start + step)
            parts.append(
                select_materialized(
                    Projection(vectors[block], table, bias),
                    rows_of(observed, block),
                    top_m,
                    n_draws,
                    key._replace(users=key.users[block]),
                )
            )
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    scores = _numbers(projected_scores(projection))
    indptr, items, first_rank = observed
    n_items = scores.shape[1]
    rows = row_of(indptr, len(items))
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[rows, items.long()] = True
    order = scores.masked_fill(mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    # An unobserved score can be -inf as well: only then does this change the order.
    order = order.gather(1, mask.gather(1, order).byte().argsort(dim=1, stable=True))
    n_unobserved = n_items - indptr.diff()
    top_items = torch.full((len(scores), top_m), -1, dtype=torch.int32, device=scores.device)
    width = min(top_m, n_items)
    missing = torch.arange(width, device=scores.device) >= n_unobserved[:, None]
    top_items[:, :width] = order[:, :width].masked_fill(missing, -1).int()
    threshold = order.gather(1, first_rank[:, None])
    ranks = torch.arange(n_items, device=scores.device)
    pooled = (ranks >= first_rank[:, None]) & (ranks < n_unobserved[:, None])
    pools = torch.zeros_like(mask).scatter_(1, order, pooled)
    return (
        top_items,
        scores.gather(1, threshold)[:, 0],
        threshold[:, 0].int(),
        scores[rows, items.long()],
        draw_from_masks(pools, n_draws, key),
    )


def rows_of(observed: ObservedRows, rows: torch.Tensor | slice) -> ObservedRows:
    """Those of some rows, by indices [R] or a slice."""
    indptr, items, first_rank = observed
    starts, lengths = indptr[:-1][rows], indptr.diff()[rows]
    ends = lengths.cumsum(0)
    of_entry = torch.arange(len(lengths), device=items.device).repeat_interleave(lengths)
    places = torch.arange(len(of_entry), device=items.device)
    places += (starts - ends + lengths)[of_entry]
    return ObservedRows(torch.cat((ends.new_zeros(1), ends)), items[places], first_rank[rows])


def draw_from_masks(pools: torch.Tensor, n_draws: int, key: DrawKey) -> torch.Tensor:
    """int32 [B, n_draws], as ``ops.selection.sample_pool`` defines the draws, from masks [B, N]."""
    n_rows, n_items = pools.shape
    sizes = pools.sum(1, keepdim=True)
    listed = sizes * _LIST_BELOW < n_items
    n_words = 4 * n_draws
    while True:
        word = _words(key, n_words)
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


def _words(key: DrawKey, n_words: int) -> torch.Tensor:
    """int64 [B, n_words], on the device of ``users``."""
    seed, epoch, users = key
    counter = users.new_empty((len(users), n_words // 4, 4))
    counter[..., 0] = torch.arange(n_words // 4, device=users.device)
    counter[..., 1] = users[:, None]
    counter[..., 2] = epoch
    counter[..., 3] = NEGATIVES
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).flatten(1)


def _numbers(scores: torch.Tensor) -> torch.Tensor:
    rows = scores.isnan().any(dim=1).nonzero()
    if len(rows):
        raise NonFiniteScoresError("scores must not be NaN", int(rows[0]))
    return scores
