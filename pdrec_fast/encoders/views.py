"""Random views of sequences: crop, mask and reorder (Xie et al., ICDE 2022, section III-C)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from pdrec_fast.checks import check_ratios
from pdrec_fast.data.sequences import PackedSequences, packed_tokens
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ragged import indptr_of, ranges, row_indices
from pdrec_fast.random_keys import VIEW_USERS, VIEWS
from pdrec_fast.reference.counter_rng import bounded, ragged_words

CROP, MASK, REORDER = range(3)
_PAIRS = np.array(list(permutations((CROP, MASK, REORDER), 2)))


@dataclass(frozen=True)
class Augmentation:
    """How much of a sequence of n items the views change.

    Attributes:
        crop: η; a view keeps ``floor(η n)`` items in a row, at least one.
        mask: γ; ``floor(γ n)`` items are masked.
        reorder: β; ``floor(β n)`` items in a row are shuffled.

    Raises:
        ValueError: a ratio is out of its range.
    """

    crop: float = 0.6
    mask: float = 0.3
    reorder: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], got {self.crop}")
        check_ratios(self, "mask", "reorder")

    def views(self, sequences: PackedSequences, max_length: int, mask_item: int) -> PackedSequences:
        """Two views of every sequence, by two different augmentations.

        All choices follow from the seed, the epoch and the users of ``sequences.dropout_key``, the
        stream being ``VIEWS``: of a sequence of n items, word 0 chooses the pair of augmentations,
        words 1 and 2 where cropping and reordering begin; the items masked are those with the
        smallest of the next n words, and the last n words are the order of those shuffled.

        Args:
            sequences: B of them, on the host, none empty.
            max_length: of the encoder; positions count up to it.
            mask_item: stands for masked items.

        Returns:
            2 B sequences, longest first; of those, ``sources`` b and B + b are the views of
            sequence b.

        Raises:
            ValueError: the sequences have no ``dropout_key``.
        """
        key = sequences.dropout_key
        if key is None:
            raise ValueError("views need sequences with a dropout_key: pack(..., seed=...)")
        items, lengths = sequences.items.numpy(), sequences.host_lengths
        starts = sequences.indptr.numpy()[:-1]
        choices, crop_at, reorder_at, mask_order, reorder_order = _draw(key, lengths)
        kept = np.maximum((self.crop * lengths).astype(np.int64), 1)
        n_masked, n_shuffled = (
            (ratio * lengths).astype(np.int64) for ratio in (self.mask, self.reorder)
        )
        variants = np.stack(
            [
                items,
                _masked(items, lengths, mask_order, n_masked, mask_item),
                _shuffled(
                    items,
                    lengths,
                    reorder_order,
                    bounded(reorder_at, lengths - n_shuffled + 1),
                    n_shuffled,
                ),
            ]
        )
        kinds = _PAIRS[bounded(choices, len(_PAIRS))].T.ravel()
        view_lengths = np.where(kinds == CROP, np.tile(kept, 2), np.tile(lengths, 2))
        crop_starts = starts + bounded(crop_at, lengths - kept + 1)
        view_starts = np.where(kinds == CROP, np.tile(crop_starts, 2), np.tile(starts, 2))
        # As users, views are others, so that their dropout is not that of the sequences again.
        users = (np.array(VIEW_USERS)[:, None] + key.users.numpy()).ravel()
        order = np.argsort(-view_lengths, kind="stable")
        view_lengths = view_lengths[order]
        tokens = ranges(view_starts[order], view_lengths)
        return packed_tokens(
            variants[np.repeat(kinds[order], view_lengths), tokens],
            view_lengths,
            max_length,
            order,
            DropoutKey(key.seed, key.epoch, torch.from_numpy(users[order])),
        )


def _draw(key: DropoutKey, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """The words of every sequence: three of them [B] and two for every item [T]."""
    n_words = 3 + 2 * lengths
    words = ragged_words(key.seed, key.epoch, key.users, torch.from_numpy(n_words), VIEWS).numpy()
    first = indptr_of(n_words)[:-1]
    item_words = (words[ranges(first + 3 + n, lengths)] for n in (0 * lengths, lengths))
    return words[first], words[first + 1], words[first + 2], *item_words


def _masked(
    items: np.ndarray, lengths: np.ndarray, keys: np.ndarray, n: np.ndarray, mask_item: int
) -> np.ndarray:
    """``items`` with the ``n[b]`` of every sequence b that have the smallest keys masked."""
    order = np.lexsort((keys, row_indices(indptr_of(lengths))))
    out = items.copy()
    out[order[ranges(np.zeros_like(lengths), lengths) < np.repeat(n, lengths)]] = mask_item
    return out


def _shuffled(
    items: np.ndarray, lengths: np.ndarray, keys: np.ndarray, start: np.ndarray, n: np.ndarray
) -> np.ndarray:
    """``items`` with ``n[b]`` in a row of every sequence b, from ``start[b]`` on, by their keys."""
    tokens = ranges(indptr_of(lengths)[:-1] + start, n)
    out = items.copy()
    out[tokens] = items[tokens[np.lexsort((keys[tokens], row_indices(indptr_of(n))))]]
    return out
