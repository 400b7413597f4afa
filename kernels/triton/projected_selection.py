# mypy: disallow-untyped-defs=False
"""DOC"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.score_tiles import (
    WORD,
    Corpus,
    load_vectors,
    sample_scores,
    score_tile,
)

# 1.5 * 2**23 + x is the float whose lowest bits are the integer nearest to x, and floats above 0
# have the order of their bits.
_FIRST_BIN = tl.constexpr(0x4B400000)
_BIN_OFFSET = 12582912.0
_NO_KEY = 2**63 - 1
AGAIN, NAN = 1, 2
_DEVIATIONS = 4.5
_GROUPS_PER_TOP = 8


class Selected(NamedTuple):
    """``pool``: int32 [B, ceil(N / 32)], a bit an item. ``state``: int32 [B], 0 where all is well,
    ``AGAIN`` where a list was too short and the row must be done another way, ``NAN`` where a
    score is NaN."""

    top_items: torch.Tensor
    threshold_score: torch.Tensor
    threshold_item: torch.Tensor
    pool: torch.Tensor
    state: torch.Tensor


@triton.jit
def _word_places(bits_ptr, rows, first, n_rows, n_words, BLOCK_ITEMS: tl.constexpr):
    """Pointers to a tile's words of bits, [rows, words], and which exist."""
    words = first // WORD + tl.arange(0, BLOCK_ITEMS // WORD)
    inside = (rows < n_rows)[:, None] & (words < n_words)[None, :]
    return bits_ptr + rows.to(tl.int64)[:, None] * n_words + words[None, :], inside


@triton.jit
def _has_bit(words):
    bit = 1 << tl.arange(0, WORD)
    return (words[:, :, None] & bit[None, None, :]) != 0


@triton.jit
def _bins(scores, scale, offset):
    """Integers that rise with the score; bin b of a row's bracket is ``_FIRST_BIN + b``.

    The multiplication and addition round once, in every kernel: bins must agree.
    """
    scale = tl.broadcast_to(scale[:, None, None], scores.shape)
    offset = tl.broadcast_to(offset[:, None, None], scores.shape)
    return tl.fma(scores, scale, offset).to(tl.int32, bitcast=True)


@triton.jit
def _load_of_rows(pointer, rows, n_rows):
    return tl.load(pointer + tl.minimum(rows, n_rows - 1))


@triton.jit
def _larger_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _count_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    bits_ptr,
    scale_ptr,
    offset_ptr,
    counts_ptr,
    best_ptr,
    n_rows,
    n_items,
    n_words,
    slab,
    N_BINS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """How many unobserved scores are in each bin and above; the best of every 32nd of a slab."""
    rows, resident = load_vectors(vectors_ptr, n_rows, HIDDEN, BLOCK_ROWS, BLOCK_DEPTH)
    scale = _load_of_rows(scale_ptr, rows, n_rows)
    offset = _load_of_rows(offset_ptr, rows, n_rows)
    counts_ptr += rows.to(tl.int64) * (N_BINS + 1)
    best = tl.full((BLOCK_ROWS, WORD), float("-inf"), tl.float32)
    above = tl.zeros((BLOCK_ROWS, WORD), tl.int32)
    begin = tl.program_id(1) * slab
    for first in range(begin, tl.minimum(begin + slab, n_items), BLOCK_ITEMS):
        scores = score_tile(
            resident, vectors_ptr, table_ptr, bias_ptr, rows, first, n_rows, n_items,
            HIDDEN, PRECISION, BLOCK_ROWS, BLOCK_ITEMS, BLOCK_DEPTH,
        )  # fmt: skip
        places, inside = _word_places(bits_ptr, rows, first, n_rows, n_words, BLOCK_ITEMS)
        seen = _has_bit(tl.load(places, mask=inside, other=-1))
        scores = tl.where(seen, float("-inf"), scores)
        best = _larger_or_nan(best, tl.reduce(scores, 1, _larger_or_nan))
        bins = _bins(scores, scale, offset)
        above += tl.sum((bins >= _FIRST_BIN + N_BINS).to(tl.int32), axis=1)
        tl.atomic_add(
            counts_ptr[:, None, None] + 1 + (bins - _FIRST_BIN),
            1,
            mask=(bins >= _FIRST_BIN) & (bins < _FIRST_BIN + N_BINS),
            sem="relaxed",
        )
    tl.atomic_add(counts_ptr, tl.sum(above, axis=1), mask=rows < n_rows, sem="relaxed")
    groups = tl.program_id(1) * WORD + tl.arange(0, WORD)
    at = rows.to(tl.int64)[:, None] * (tl.num_programs(1) * WORD) + groups[None, :]
    tl.store(best_ptr + at, best, mask=(rows < n_rows)[:, None])


@triton.jit
def _descending(scores):
    """int32 that falls as the score rises; its own inverse once undone by ``_score_of``."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # -0 becomes +0
    return ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _append(keys_ptr, sizes_ptr, rows, keys, wanted, CAPACITY: tl.constexpr):
    """Adds to each row's list, in any order; what does not fit is counted but not kept."""
    rows = rows.to(tl.int64)[:, None, None]
    counters = tl.broadcast_to(sizes_ptr + rows, keys.shape)
    place = tl.atomic_add(counters, 1, mask=wanted, sem="relaxed")
    tl.store(keys_ptr + rows * CAPACITY + place, keys, mask=wanted & (place < CAPACITY))


@triton.jit
def _collect_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    bits_ptr,
    scale_ptr,
    offset_ptr,
    least_ptr,
    lowest_ptr,
    highest_ptr,
    top_ptr,
    top_sizes_ptr,
    bin_ptr,
    bin_sizes_ptr,
    n_rows,
    n_items,
    n_words,
    slab,
    TOP_CAPACITY: tl.constexpr,
    BIN_CAPACITY: tl.constexpr,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Lists of the unobserved scores of at least ``least`` and of those in the threshold's bin.

    The bits of the observed items give way to those of the unobserved ones below that bin.
    """
    rows, resident = load_vectors(vectors_ptr, n_rows, HIDDEN, BLOCK_ROWS, BLOCK_DEPTH)
    scale = _load_of_rows(scale_ptr, rows, n_rows)
    offset = _load_of_rows(offset_ptr, rows, n_rows)
    least = _load_of_rows(least_ptr, rows, n_rows)[:, None, None]
    lowest = _load_of_rows(lowest_ptr, rows, n_rows)[:, None, None]
    highest = _load_of_rows(highest_ptr, rows, n_rows)[:, None, None]
    bit = (1 << tl.arange(0, WORD))[None, None, :]
    begin = tl.program_id(1) * slab
    for first in range(begin, tl.minimum(begin + slab, n_items), BLOCK_ITEMS):
        scores = score_tile(
            resident, vectors_ptr, table_ptr, bias_ptr, rows, first, n_rows, n_items,
            HIDDEN, PRECISION, BLOCK_ROWS, BLOCK_ITEMS, BLOCK_DEPTH,
        )  # fmt: skip
        places, inside = _word_places(bits_ptr, rows, first, n_rows, n_words, BLOCK_ITEMS)
        seen = _has_bit(tl.load(places, mask=inside, other=-1))
        bins = _bins(scores, scale, offset)
        below = (bins < lowest) & ~seen
        tl.store(places, tl.sum(tl.where(below, bit, 0), axis=2), mask=inside)
        in_top = (scores >= least) & ~seen
        in_bin = (bins >= lowest) & (bins <= highest) & ~seen
        any_of_row = tl.max(tl.max((in_top | in_bin).to(tl.int32), axis=2), axis=1)
        if tl.max(any_of_row, axis=0) > 0:
            items = first + tl.arange(0, BLOCK_ITEMS)
            items = tl.reshape(items, (1, BLOCK_ITEMS // WORD, WORD)).to(tl.int64)
            keys = (_descending(scores).to(tl.int64) << 32) | items
            _append(top_ptr, top_sizes_ptr, rows, keys, in_top, TOP_CAPACITY)
            _append(bin_ptr, bin_sizes_ptr, rows, keys, in_bin, BIN_CAPACITY)


@triton.jit
def _bracket_kernel(
    scores_ptr, from_ranks_ptr, to_ranks_ptr, low_ptr, high_ptr, n_samples, BLOCK: tl.constexpr
):
    """A row's scores at two ranks, from 0 for the highest, but for their lowest bit.

    Bit by bit: the largest number that more than ``rank`` of the scores reach.
    """
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < n_samples
    scores = tl.load(scores_ptr + row * n_samples + places, mask=inside, other=0.0)
    rising = tl.where(inside, (~_descending(scores) >> 1) + (1 << 30), -1)
    from_rank = tl.load(from_ranks_ptr + row)
    to_rank = tl.load(to_ranks_ptr + row)
    high = tl.zeros((1,), tl.int32)
    low = tl.zeros((1,), tl.int32)
    for i in range(31):
        bit = 1 << (30 - i)
        n_high = tl.sum((rising >= (high | bit)).to(tl.int32), axis=0)
        n_low = tl.sum((rising >= (low | bit)).to(tl.int32), axis=0)
        high = tl.where(n_high > from_rank, high | bit, high)
        low = tl.where(n_low > to_rank, low | bit, low)
    one = row + tl.arange(0, 1)
    tl.store(high_ptr + one, _rising_score(high))
    tl.store(low_ptr + one, _rising_score(low))


@triton.jit
def _rising_score(number):
    bits = (number - (1 << 30)) << 1
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


def select(
    corpus: Corpus,
    indptr: torch.Tensor,
    items: torch.Tensor,
    rows: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
) -> Selected:
    """What ``ops.selection`` defines, and the pools, of B >= 1 rows, without waiting for the GPU.

    Args:
        rows: int64 [nnz], of the observed ``items``.
        first_rank: int64 [B]; one out of its range gives a row without meaning.
    """
    n_observed = indptr.diff()
    n_unobserved = corpus.n_items - n_observed
    rank = first_rank.clamp(min=0).minimum((n_unobserved - 1).clamp(min=0))
    bits = _observed_bits(corpus, rows, items)
    bins = _bracket(corpus, rank, n_observed)
    counts, best = _count(corpus, bits, bins, top_m)
    lowest, highest, rank, n_in_bin = _threshold_bin(counts, n_unobserved, rank)
    least = _least_of_top(best, top_m)
    tops, n_tops, members = _collect(corpus, bits, bins, least, lowest, highest, top_m)
    failed = (n_in_bin > members.shape[1]) | (n_tops > tops.shape[1])
    nan = best.isnan().any(1)
    threshold = members.gather(1, rank.clamp(max=members.shape[1] - 1)[:, None])
    _add_members(bits, members, (members >= threshold) & (members != _NO_KEY) & ~failed[:, None])
    top_items = torch.where(tops == _NO_KEY, -1, tops & 0xFFFFFFFF).int()[:, :top_m]
    return Selected(
        top_items,
        _score_of(threshold[:, 0]),
        (threshold[:, 0] & 0xFFFFFFFF).int(),
        bits,
        torch.where(nan, NAN, torch.where(failed, AGAIN, 0)).int(),
    )


def _observed_bits(corpus: Corpus, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """int32 [B, ceil(N / 32)]; the bits beyond N are set as well."""
    n_words = triton.cdiv(corpus.n_items, WORD.value)
    bits = items.new_zeros((corpus.n_rows, n_words))
    if corpus.n_items % WORD.value:
        bits[:, -1] = -1 << corpus.n_items % WORD.value
    # The bits of a word are distinct, so adding them sets them.
    bit = torch.ones_like(items) << (items & 31)
    bits.view(-1).index_add_(0, rows * n_words + (items >> 5), bit)
    return bits


def _bracket(
    corpus: Corpus, rank: torch.Tensor, n_observed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, offset), float32 [B], that put a row's bins around the score at its rank.

    From one item, chosen by a hash, of each of S equal parts of the catalogue. Wherever the
    bracket lies, the bins count right; around the rank, they are small.
    """
    n_sample = min(corpus.tile.sample, corpus.n_items)
    part = torch.arange(n_sample, device=rank.device)
    within = (part * 0x9E3779B1) & 0xFFFFFFFF
    chosen = (part * corpus.n_items + (within * corpus.n_items >> 32)) // n_sample
    scores = sample_scores(corpus, chosen)
    # The sample takes the observed items for others, so the rank lies between two.
    share = n_sample / corpus.n_items
    first, last = rank * share, (rank + n_observed) * share
    spread = _DEVIATIONS * (first * (n_sample - first).clamp(min=0) / n_sample).sqrt() + 10
    low, high = scores.new_empty((2, corpus.n_rows))
    with torch.cuda.device_of(scores):
        _bracket_kernel[(corpus.n_rows,)](
            scores,
            (first - spread).floor().clamp(0, n_sample - 1).int(),
            (last + spread).ceil().clamp(0, n_sample - 1).int(),
            low,
            high,
            n_sample,
            BLOCK=triton.next_power_of_2(n_sample),
            num_warps=8,
        )
    width = (high - low).maximum(low.abs() * 2**-18).clamp(min=2**-100)
    scale = corpus.tile.bins / width
    return scale, _BIN_OFFSET - low * scale


def _count(
    corpus: Corpus, bits: torch.Tensor, bins: tuple[torch.Tensor, torch.Tensor], top_m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(int32 [B, 1 + bins]: scores above the bins, in each; [B, G]: the best of each group)."""
    grid, slab = corpus.grid(triton.cdiv(_GROUPS_PER_TOP * top_m, WORD.value))
    counts = bits.new_zeros((corpus.n_rows, 1 + corpus.tile.bins))
    best = corpus.bias.new_empty((corpus.n_rows, grid[1] * WORD.value))
    with torch.cuda.device_of(bits):
        _count_kernel[grid](
            bits_ptr=bits,
            scale_ptr=bins[0],
            offset_ptr=bins[1],
            counts_ptr=counts,
            best_ptr=best,
            n_words=bits.shape[1],
            slab=slab,
            N_BINS=corpus.tile.bins,
            **corpus.arguments(),
        )
    return counts, best


def _threshold_bin(
    counts: torch.Tensor, n_unobserved: torch.Tensor, rank: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the bin with this rank: its first and last number, the rank within it, its size.

    What lies above all bins, and what lies below, count as one more bin each.
    """
    n_bins = counts.shape[1] - 1
    below = n_unobserved - counts.sum(1)
    sizes = torch.cat((counts[:, :1], counts[:, 1:].flip(1), below[:, None]), dim=1)
    ends = sizes.cumsum(1)
    place = torch.searchsorted(ends, rank[:, None], right=True).clamp(max=n_bins + 1)
    size = sizes.gather(1, place)[:, 0]
    within = (rank - ends.gather(1, place)[:, 0] + size).clamp(min=0)
    place = place[:, 0]
    number = _FIRST_BIN.value + n_bins - place
    lowest = torch.where(place > n_bins, -(2**31), number)
    highest = torch.where(place == 0, 2**31 - 1, number)
    return lowest.int(), highest.int(), within, size


def _least_of_top(best: torch.Tensor, top_m: int) -> torch.Tensor:
    """A score that at least ``top_m`` unobserved items reach: each group has one item."""
    if not top_m:
        return best.new_full((len(best),), torch.inf)
    if best.shape[1] < top_m:
        return best.new_full((len(best),), -torch.inf)
    return best.topk(top_m, dim=1, sorted=True).values[:, -1].contiguous()


def _collect(
    corpus: Corpus,
    bits: torch.Tensor,
    bins: tuple[torch.Tensor, torch.Tensor],
    least: torch.Tensor,
    lowest: torch.Tensor,
    highest: torch.Tensor,
    top_m: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(keys of the best, their number, keys of the threshold's bin), sorted, and new ``bits``."""
    grid, slab = corpus.grid(1)
    top_capacity = triton.next_power_of_2(max(2 * top_m, 64))
    top_keys = bits.new_full((corpus.n_rows, top_capacity), _NO_KEY, dtype=torch.int64)
    bin_keys = top_keys.new_full((corpus.n_rows, corpus.tile.capacity), _NO_KEY)
    n_top, n_in_bin = bits.new_zeros((2, corpus.n_rows))
    with torch.cuda.device_of(bits):
        _collect_kernel[grid](
            bits_ptr=bits,
            scale_ptr=bins[0],
            offset_ptr=bins[1],
            least_ptr=least,
            lowest_ptr=lowest,
            highest_ptr=highest,
            top_ptr=top_keys,
            top_sizes_ptr=n_top,
            bin_ptr=bin_keys,
            bin_sizes_ptr=n_in_bin,
            n_words=bits.shape[1],
            slab=slab,
            TOP_CAPACITY=top_capacity,
            BIN_CAPACITY=corpus.tile.capacity,
            **corpus.arguments(),
        )
    return top_keys.sort(dim=1).values, n_top, bin_keys.sort(dim=1).values


def _add_members(bits: torch.Tensor, keys: torch.Tensor, wanted: torch.Tensor) -> None:
    n_words = bits.shape[1]
    items = torch.where(wanted, keys & 0xFFFFFFFF, 0)
    rows = torch.arange(len(bits), device=bits.device)[:, None]
    bit = wanted.int() << (items & 31).int()
    bits.view(-1).index_add_(0, (rows * n_words + (items >> 5)).view(-1), bit.view(-1))


def _score_of(keys: torch.Tensor) -> torch.Tensor:
    rising = (~(keys >> 32)).int()
    return (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(torch.float32)
