# mypy: disallow-untyped-defs=False
"""Top items, thresholds and pools of B users over N items, from scores that are never stored.

1. Scores of S items, -inf where observed, and in them two that bracket the threshold's rank by
   three standard deviations. A sample only says where to look: every count below is exact.
2. A pass over all scores counts the unobserved ones above either bound and keeps the best of each
   group of items: the m-th largest of these is a score that m items reach.
3. Now exact ranks at two places of the sample say within it, by four deviations of what lies
   between, where the threshold is: no shape of the scores' distribution is assumed.
4. The same pass, hence the same bits of every score, lists what reaches the m-th largest best or
   lies between the closer bounds, and writes a bit where an unobserved item lies below them. The
   lists, some thousandths of N, are sorted; the threshold is at a known place, and those after it
   go into the pool. A list that is too short, or bounds that missed, show in ``state``.

What it costs: ``docs/performance.md``. The quantities of a row, among its unobserved items:

- ``rank``: of the threshold, 0 for the best item. ``top_m``: how many of the best are wanted.
- ``upper``, ``lower``: bounds of the threshold's score. ``n_upper``, ``n_lower``: scores above
  either, from the first pass. ``n_below``: scores below ``lower``, from the second.
- ``best``: the best score of each group of items. ``least``: the ``top_m``-th largest of them.
- ``keys``: the list, a key for each score from ``least`` on or between the bounds, sorted.
  ``size``: how many there are; a list keeps no more than its capacity.
- ``n_between``: keys between the bounds. ``within``: rank of the threshold among them.
  ``place``: of the threshold in the list, after the keys above ``upper``.
- ``bits``: a bit an item, set where it is observed; in the end, where it is in the pool.

An example, which ``tests/kernels/selection/test_select_projected.py`` runs from the second pass on:

    item             0  1  2  3  4  5  6  7
    score            5  9  2  7  7  1  8  4
    observed         1
    top_m            2
    rank             4
    upper            6              # say the sample and the first pass
    lower            3
    n_upper          3              # items 3, 4 and 6
    n_lower          5              # and items 0 and 7
    least            7              # each item is a group here; the best are 8, 7, 7, ...
    size             5
    keys             6  3  4  0  7  # their items; of equal scores the lower item is first
    n_below          2              # items 2 and 5, whose bits are set
    n_between        2              # items 0 and 7
    within           1              # rank - (n_unobserved - n_below - n_between) = 4 - (7 - 2 - 2)
    place            4              # three keys above upper, and within
    top_items        6  3
    threshold_item   7
    threshold_score  4
    pool             2  5  7        # below the bounds, or between them from the threshold on
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.selection._keys import (
    count_bits,
    pack_31_bits,
    pack_key,
    place_of_bit,
    unpack_31_bits,
    unpack_key,
)
from pdrec_fast.kernels.triton.selection._score_tiles import (
    INTERPRETED,
    NOT_SPECIALIZED,
    WORD,
    Corpus,
    load_vectors,
    sample_scores,
    score_tile,
)
from pdrec_fast.operands import ObservedRows

_NO_KEY = 2**63 - 1
NEEDS_FALLBACK, NAN = 1, 2
_GROUPS_PER_TOP = 8
_SAMPLES_PER_PROGRAM = 1 << 15  # 64 registers a thread of 16 warps


class Selected(NamedTuple):
    """``pool``: int32 [B, ceil(N / 32)], a bit an item. ``state``: int32 [B], 0 where all is well,
    ``NEEDS_FALLBACK`` where a list was too short or the bounds missed, so that the row must be done
    another way, ``NAN`` where a score is NaN."""

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
def _load_of_rows(pointer, rows, n_rows):
    return tl.load(pointer + tl.minimum(rows, n_rows - 1))


@triton.jit
def _larger_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _largest_of_words(scores):
    if INTERPRETED:  # it calls a function for each pair of numbers
        return tl.max(scores, axis=1)
    else:
        return tl.reduce(scores, 1, _larger_or_nan)


@triton.jit
def _add_of_rows(pointer, rows, n_rows, counts):
    tl.atomic_add(pointer + rows, tl.sum(counts, axis=1), mask=rows < n_rows, sem="relaxed")


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _count_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    bits_ptr,
    upper_ptr,
    lower_ptr,
    n_upper_ptr,
    n_lower_ptr,
    best_ptr,
    n_rows,
    n_items,
    n_words,
    slab,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """How many unobserved scores lie above either bound; the best of every 32nd of a slab."""
    rows, resident = load_vectors(vectors_ptr, n_rows, HIDDEN, BLOCK_ROWS, BLOCK_DEPTH)
    upper = _load_of_rows(upper_ptr, rows, n_rows)[:, None, None]
    lower = _load_of_rows(lower_ptr, rows, n_rows)[:, None, None]
    best = tl.full((BLOCK_ROWS, WORD), float("-inf"), tl.float32)
    n_upper = tl.zeros((BLOCK_ROWS, WORD), tl.int32)
    n_lower = tl.zeros((BLOCK_ROWS, WORD), tl.int32)
    begin = tl.program_id(1) * slab
    for first in range(begin, tl.minimum(begin + slab, n_items), BLOCK_ITEMS):
        scores = score_tile(
            resident, vectors_ptr, table_ptr, bias_ptr, rows, first, n_rows, n_items,
            HIDDEN, PRECISION, BLOCK_ROWS, BLOCK_ITEMS, BLOCK_DEPTH,
        )  # fmt: skip
        places, inside = _word_places(bits_ptr, rows, first, n_rows, n_words, BLOCK_ITEMS)
        seen = _has_bit(tl.load(places, mask=inside, other=-1))
        scores = tl.where(seen, float("-inf"), scores)
        best = _larger_or_nan(best, _largest_of_words(scores))
        n_upper += tl.sum((scores > upper).to(tl.int32), axis=1)
        n_lower += tl.sum((scores > lower).to(tl.int32), axis=1)
    _add_of_rows(n_upper_ptr, rows, n_rows, n_upper)
    _add_of_rows(n_lower_ptr, rows, n_rows, n_lower)
    groups = tl.program_id(1) * WORD + tl.arange(0, WORD)
    at = rows.to(tl.int64)[:, None] * (tl.num_programs(1) * WORD) + groups[None, :]
    tl.store(best_ptr + at, best, mask=(rows < n_rows)[:, None])


@triton.jit
def _any(words):
    return tl.max(tl.max((words != 0).to(tl.int32), axis=1), axis=0)


@triton.jit
def _append(keys_ptr, sizes_ptr, rows, first, scores, words, most, CAPACITY: tl.constexpr):
    """Adds the scores whose bits are set to the rows' lists, in any order.

    A round takes one score of each word; ``most`` is 0 when none is left. What does not fit is
    counted but not kept.
    """
    bit = (1 << tl.arange(0, WORD))[None, None, :]
    rows = rows.to(tl.int64)[:, None]
    counters = tl.broadcast_to(sizes_ptr + rows, words.shape)
    firsts = first + WORD * tl.arange(0, words.shape[1])
    while most > 0:
        lowest = words & -words
        score = tl.sum(tl.where(lowest[:, :, None] == bit, scores, 0.0), axis=2)
        keys = pack_key(score, firsts[None, :] + place_of_bit(lowest))
        place = tl.atomic_add(counters, 1, mask=words != 0, sem="relaxed")
        tl.store(keys_ptr + rows * CAPACITY + place, keys, mask=(words != 0) & (place < CAPACITY))
        words ^= lowest
        most = _any(words)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _collect_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    bits_ptr,
    least_ptr,
    upper_ptr,
    lower_ptr,
    n_below_ptr,
    keys_ptr,
    sizes_ptr,
    n_rows,
    n_items,
    n_words,
    slab,
    CAPACITY: tl.constexpr,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Lists of the unobserved scores from ``least`` on and of those between the bounds.

    The bits of the observed items give way to those of the unobserved ones below the lower bound,
    which are counted.
    """
    rows, resident = load_vectors(vectors_ptr, n_rows, HIDDEN, BLOCK_ROWS, BLOCK_DEPTH)
    least = _load_of_rows(least_ptr, rows, n_rows)[:, None, None]
    upper = _load_of_rows(upper_ptr, rows, n_rows)[:, None, None]
    lower = _load_of_rows(lower_ptr, rows, n_rows)[:, None, None]
    bit = (1 << tl.arange(0, WORD))[None, None, :]
    n_below = tl.zeros((BLOCK_ROWS, BLOCK_ITEMS // WORD), tl.int32)
    begin = tl.program_id(1) * slab
    for first in range(begin, tl.minimum(begin + slab, n_items), BLOCK_ITEMS):
        scores = score_tile(
            resident, vectors_ptr, table_ptr, bias_ptr, rows, first, n_rows, n_items,
            HIDDEN, PRECISION, BLOCK_ROWS, BLOCK_ITEMS, BLOCK_DEPTH,
        )  # fmt: skip
        places, inside = _word_places(bits_ptr, rows, first, n_rows, n_words, BLOCK_ITEMS)
        seen = tl.load(places, mask=inside, other=-1)
        below = tl.sum(tl.where(scores < lower, bit, 0), axis=2) & ~seen
        n_below += count_bits(below)
        tl.store(places, below, mask=inside)
        listed = (scores >= least) | ((scores >= lower) & (scores <= upper))
        words = tl.sum(tl.where(listed, bit, 0), axis=2) & ~seen
        most = _any(words)  # apart: Triton 3.2 takes no call in the condition
        if most > 0:  # the loop in it alone would keep this one from being pipelined
            _append(keys_ptr, sizes_ptr, rows, first, scores, words, most, CAPACITY)
    _add_of_rows(n_below_ptr, rows, n_rows, n_below)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _bracket_kernel(
    scores_ptr,
    from_ranks_ptr,
    to_ranks_ptr,
    upper_ptr,
    lower_ptr,
    n_rows,
    n_samples,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
):
    """Scores that hug those at two ranks of a row, counted from 0 for the highest.

    Bit by bit, but for the lowest: the largest number that more than ``rank`` scores reach.
    """
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    places = tl.arange(0, BLOCK_SAMPLES)
    inside = (rows < n_rows)[:, None] & (places < n_samples)[None, :]
    at = rows.to(tl.int64)[:, None] * n_samples + places[None, :]
    scores = tl.load(scores_ptr + at, mask=inside, other=0.0)
    rising = tl.where(inside, pack_31_bits(scores), -1)
    from_rank = _load_of_rows(from_ranks_ptr, rows, n_rows)
    to_rank = _load_of_rows(to_ranks_ptr, rows, n_rows)
    upper = tl.zeros((BLOCK_ROWS,), tl.int32)
    lower = tl.zeros((BLOCK_ROWS,), tl.int32)
    for i in range(31):
        bit = 1 << (30 - i)
        n_upper = tl.sum((rising >= (upper | bit)[:, None]).to(tl.int32), axis=1)
        n_lower = tl.sum((rising >= (lower | bit)[:, None]).to(tl.int32), axis=1)
        upper = tl.where(n_upper > from_rank, upper | bit, upper)
        lower = tl.where(n_lower > to_rank, lower | bit, lower)
    tl.store(upper_ptr + rows, unpack_31_bits(upper, 1), mask=rows < n_rows)
    tl.store(lower_ptr + rows, unpack_31_bits(lower, 0), mask=rows < n_rows)


def select_projected(
    corpus: Corpus, observed: ObservedRows, rows: torch.Tensor, top_m: int
) -> Selected:
    """What ``ops.selection`` defines, and the pools, of B >= 1 rows, without waiting for the GPU.

    Args:
        observed: a ``first_rank`` out of its range gives a row without meaning.
        rows: int64 [nnz], of the observed ``items``.
    """
    indptr, items, first_rank = observed
    n_observed = indptr.diff()
    n_unobserved = corpus.n_items - n_observed
    rank = first_rank.clamp(min=0).minimum((n_unobserved - 1).clamp(min=0))
    bits = _observed_bits(corpus, rows, items)
    bounds = _bounds(corpus, bits, n_unobserved, rank, top_m)
    return _select_listed(corpus, bits, *bounds, n_unobserved, rank, top_m)


def _select_listed(
    corpus: Corpus,
    bits: torch.Tensor,
    upper: torch.Tensor,
    lower: torch.Tensor,
    best: torch.Tensor,
    n_unobserved: torch.Tensor,
    rank: torch.Tensor,
    top_m: int,
) -> Selected:
    """What the second pass and its lists say; ``bits`` become those of the pools."""
    keys, size, n_below = _collect(corpus, bits, _least_of_top(best, top_m), upper, lower, top_m)
    scores, ids = unpack_key(keys)
    kept = keys != _NO_KEY
    between = kept & (scores >= lower[:, None]) & (scores <= upper[:, None])
    n_between = between.sum(1)
    within = rank - (n_unobserved - n_below - n_between)
    failed = (size > keys.shape[1]) | (within < 0) | (within >= n_between)
    place = (kept & (scores > upper[:, None])).sum(1) + within
    place = place.clamp(0, keys.shape[1] - 1)[:, None]
    pooled = between & (keys >= keys.gather(1, place)) & ~failed[:, None]
    _add_to_pool(bits, ids, pooled)
    return Selected(
        torch.where(kept[:, :top_m], ids[:, :top_m], -1),
        scores.gather(1, place)[:, 0],
        ids.gather(1, place)[:, 0],
        bits,
        torch.where(best.isnan().any(1), NAN, torch.where(failed, NEEDS_FALLBACK, 0)).int(),
    )


def _bounds(
    corpus: Corpus, bits: torch.Tensor, n_unobserved: torch.Tensor, rank: torch.Tensor, top_m: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(two scores around that at ``rank``, float32 [B]; the best of each group of items [B, G])."""
    sample, n_sampled = _sample(corpus, bits)
    place = (rank + 0.5) * n_sampled / n_unobserved
    reach = 3 * (place * (1 - place / n_sampled)).clamp(min=0).sqrt() + 4
    first, last = (place - reach).floor().clamp(min=0), (place + reach).ceil()
    last = last.minimum(n_sampled - 1)
    upper, lower = _scores_at(sample, first, last)
    n_upper, n_lower, best = _count(corpus, bits, upper, lower, top_m)
    # Exact ranks at two scores of the sample tell better where in it the wanted rank lies: by half
    # the root of how many lie between, at most.
    per_rank = (last - first) / (n_lower - n_upper).clamp(min=1)
    place = first + (rank - n_upper + 0.5) * per_rank
    beside = (first - place).maximum(place - last).clamp(min=0)
    reach = 2 * (last - first + beside).clamp(min=0).sqrt() + 0.5 * beside + 2
    first, last = (place - reach).floor(), (place + reach).ceil()
    upper, lower = _scores_at(sample, first, last)
    upper = torch.where(first < 0, torch.inf, upper)
    lower = torch.where(last >= n_sampled, -torch.inf, lower)
    return upper, lower, best


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


def _sample(corpus: Corpus, bits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(float32 [B, S], scores of some items, -inf where observed; how many are not, [B]).

    One item, chosen by a hash, of each of S equal parts of the catalogue.
    """
    n_sample = min(corpus.tile.sample, corpus.n_items)
    part = torch.arange(n_sample, device=bits.device)
    within = (part * 0x9E3779B1) & 0xFFFFFFFF
    chosen = (part * corpus.n_items + (within * corpus.n_items >> 32)) // n_sample
    sample = sample_scores(corpus, chosen, bits)
    return sample, (sample != -torch.inf).sum(1)


def _scores_at(
    sample: torch.Tensor, first: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores at two ranks of each row, float32 [B], or a little beyond."""
    n_rows, n_sample = sample.shape
    first, last = (rank.clamp(0, n_sample - 1).int() for rank in (first, last))
    upper, lower = sample.new_empty((2, n_rows))
    block = triton.next_power_of_2(n_sample)
    rows = max(_SAMPLES_PER_PROGRAM // block, 1)
    with torch.cuda.device_of(sample):
        _bracket_kernel[(triton.cdiv(n_rows, rows),)](
            sample,
            first,
            last,
            upper,
            lower,
            n_rows,
            n_sample,
            BLOCK_ROWS=rows,
            BLOCK_SAMPLES=block,
            num_warps=16,
        )
    return upper, lower


def _count(
    corpus: Corpus, bits: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor, top_m: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(numbers of scores above each bound, int32 [B]; the best of each group of items [B, G])."""
    grid, slab = corpus.grid(triton.cdiv(_GROUPS_PER_TOP * top_m, WORD.value))
    n_upper, n_lower = bits.new_zeros((2, corpus.n_rows))
    best = corpus.bias.new_empty((corpus.n_rows, grid[1] * WORD.value))
    with torch.cuda.device_of(bits):
        _count_kernel[grid](
            bits_ptr=bits,
            upper_ptr=upper,
            lower_ptr=lower,
            n_upper_ptr=n_upper,
            n_lower_ptr=n_lower,
            best_ptr=best,
            n_words=bits.shape[1],
            slab=slab,
            **corpus.arguments(),
        )
    return n_upper, n_lower, best


def _least_of_top(best: torch.Tensor, top_m: int) -> torch.Tensor:
    """A score that at least ``top_m`` unobserved items reach: each group has one item."""
    if not top_m:
        return best.new_full((len(best),), torch.inf)
    if best.shape[1] < top_m:
        return best.new_full((len(best),), -torch.inf)
    return best.topk(top_m, dim=1).values[:, -1].contiguous()


def _collect(
    corpus: Corpus,
    bits: torch.Tensor,
    least: torch.Tensor,
    upper: torch.Tensor,
    lower: torch.Tensor,
    top_m: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sorted keys, how many there should be, how many scores are below ``lower``); new bits."""
    grid, slab = corpus.grid(1)
    capacity = triton.next_power_of_2(max(corpus.tile.capacity, 4 * top_m))
    keys = bits.new_full((corpus.n_rows, capacity), _NO_KEY, dtype=torch.int64)
    sizes, n_below = bits.new_zeros((2, corpus.n_rows))
    with torch.cuda.device_of(bits):
        _collect_kernel[grid](
            bits_ptr=bits,
            least_ptr=least,
            upper_ptr=upper,
            lower_ptr=lower,
            n_below_ptr=n_below,
            keys_ptr=keys,
            sizes_ptr=sizes,
            n_words=bits.shape[1],
            slab=slab,
            CAPACITY=capacity,
            **corpus.arguments(),
        )
    return keys.sort(dim=1).values, sizes, n_below


def _add_to_pool(bits: torch.Tensor, items: torch.Tensor, wanted: torch.Tensor) -> None:
    n_words = bits.shape[1]
    items = torch.where(wanted, items, 0)
    words = torch.arange(len(bits), device=bits.device)[:, None] * n_words + (items >> 5)
    bits.view(-1).index_add_(0, words.view(-1), (wanted.int() << (items & 31)).view(-1))
