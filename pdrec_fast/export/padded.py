"""What programs read, padded ids, and what a model sees of them."""

from __future__ import annotations

import torch

PADDING = 0
FIRST_ID = 1  # of item 0


def remaining(items: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of padded ids count, and how many that count follow each of them.

    Args:
        items: int64 [B, L], item + 1, oldest first; 0 is padding, wherever it stands.
        known: bool [N + 1], by id; false for padding and for items that take no place.

    Returns:
        (keep bool [B, L], back int64 [B, L]); ``back`` is 0 at the latest item.
    """
    keep = known[items]
    return keep, keep.long().flip(1).cumsum(1).flip(1) - keep.long()


def latest(
    items: torch.Tensor, keep: torch.Tensor, back: torch.Tensor, max_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last ``max_length`` items that count, without gaps, then padding.

    Returns:
        (ids int64 [B, W + 1] with W = min(L, max_length), of which the last column is always
        padding; lengths int64 [B]).
    """
    keep = keep & (back < max_length)
    lengths = keep.sum(1)
    width = torch.sym_min(items.shape[1], max_length)
    columns = torch.where(keep, lengths[:, None] - 1 - back, width)
    ids = items.new_zeros((items.shape[0], width + 1))
    return ids.scatter(1, columns, items * keep), lengths


def known_ids(items: torch.Tensor | None, n_items: int) -> torch.Tensor:
    """bool [N + 1] by id, from bool [N] by item; None for all items."""
    known = torch.ones(n_items + 1, dtype=torch.bool)
    known[PADDING] = False
    if items is not None:
        known[FIRST_ID:] = items
    return known
