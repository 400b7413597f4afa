# mypy: disallow-untyped-defs=False
"""Scores = vectors @ table.T + bias, tile by tile: what the kernels that use them up share."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
WORD = tl.constexpr(32)
NOT_SPECIALIZED = ("n_rows", "n_pairs", "lower_ptr", "n_lower_ptr", "n_below_ptr")
"""They change with the block of users, or their alignment does: compiling anew gains nothing."""
_MULTIPROCESSORS = 132  # of an H100 or H200; in bf16 each holds two programs
_PAIRS = 16


@dataclass(frozen=True)
class Tile:
    """How the work is cut; the ids found do not depend on it, but for rounding of the scores.

    Attributes:
        rows, items, depth: block of the product, powers of two, items at least 32. With a depth
            of H or more a program keeps its vectors on the chip.
        n_warps, n_stages: of a program. max_registers: of a thread, so that two programs fit.
        precision: of float32 products, ``tl.dot``'s ``input_precision``.
        sample: items whose scores bracket each row's threshold, a power of two.
        capacity: unobserved scores that a row may list, the best and those near its threshold. Up
            to 4,096 torch sorts a row in one block.
    """

    rows: int
    items: int
    depth: int
    n_warps: int = 8
    n_stages: int = 2
    max_registers: int | None = None
    precision: str = "ieee"
    sample: int = 32768
    capacity: int = 2048


def default_tile(hidden: int, dtype: torch.dtype, n_items: int) -> Tile:
    """By shape, not by timing: another tile may round otherwise, and a run should repeat."""
    capacity = max(triton.next_power_of_2(n_items // 320), 2048)
    if dtype == torch.float32:
        return Tile(64, 64, 16, capacity=capacity)
    depth = max(triton.next_power_of_2(hidden), 16)
    if depth <= 128:
        return Tile(128, 64, depth, max_registers=128, capacity=capacity)
    if depth == 256:
        return Tile(128, 32, depth, max_registers=128, capacity=capacity)
    return Tile(128, 128, 64, n_stages=3, capacity=capacity)


class Corpus:
    """Vectors [B, H], a table [N, H] and its bias, as the kernels take them."""

    def __init__(
        self,
        vectors: torch.Tensor,
        table: torch.Tensor,
        bias: torch.Tensor,
        tile: Tile | None = None,
    ) -> None:
        self.vectors = vectors.to(table.dtype).contiguous()
        self.table = table.contiguous()
        self.tile = tile or default_tile(table.shape[1], table.dtype, len(table))
        # Whole tiles: every thread loads from it, and needs no other address where the items end.
        self.bias = F.pad(bias.float(), (0, -len(bias) % self.tile.items))
        self.n_rows, self.n_items = len(vectors), len(table)

    def arguments(self) -> dict[str, object]:
        """The arguments of these names that every kernel over tiles takes."""
        tile = self.tile
        return {
            "vectors_ptr": self.vectors,
            "table_ptr": self.table,
            "bias_ptr": self.bias,
            "n_rows": self.n_rows,
            "n_items": self.n_items,
            "HIDDEN": self.table.shape[1],
            "PRECISION": tile.precision,
            "BLOCK_ROWS": tile.rows,
            "BLOCK_ITEMS": tile.items,
            "BLOCK_DEPTH": tile.depth,
            "num_warps": tile.n_warps,
            "num_stages": tile.n_stages,
            "maxnreg": tile.max_registers,
        }

    def grid(self, least_slabs: int) -> tuple[tuple[int, int], int]:
        """(tiles of users, slabs of items), and the items of a slab."""
        n_row_tiles = triton.cdiv(self.n_rows, self.tile.rows)
        n_tiles = triton.cdiv(self.n_items, self.tile.items)
        at_once = _MULTIPROCESSORS * (1 if self.table.dtype == torch.float32 else 2)
        # Rounded down: one program more than run at once would make all others wait for it.
        n_slabs = min(max(at_once // n_row_tiles, least_slabs, 1), n_tiles)
        per_slab = triton.cdiv(n_tiles, n_slabs)
        return (n_row_tiles, triton.cdiv(n_tiles, per_slab)), per_slab * self.tile.items


@triton.jit
def _load_depths(pointer, rows, start, HIDDEN: tl.constexpr, BLOCK_DEPTH: tl.constexpr):
    """Rows x depths of a contiguous matrix, 0 beyond its width."""
    depths = start + tl.arange(0, BLOCK_DEPTH)
    at = pointer + rows.to(tl.int64)[:, None] * HIDDEN + depths[None, :]
    if HIDDEN % BLOCK_DEPTH == 0:
        return tl.load(at)
    else:
        return tl.load(at, mask=(depths < HIDDEN)[None, :], other=0.0)


@triton.jit
def _add_product(sums, vectors, rows_of_table, PRECISION: tl.constexpr):
    if INTERPRETED:  # its dot takes the bits of a bfloat16 for an integer
        vectors, rows_of_table = vectors.to(tl.float32), rows_of_table.to(tl.float32)
    return tl.dot(vectors, tl.trans(rows_of_table), sums, input_precision=PRECISION)


@triton.jit
def load_vectors(
    vectors_ptr, n_rows, HIDDEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DEPTH: tl.constexpr
):
    """(the program's rows, their vectors if those fit into one block of depths)."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    if BLOCK_DEPTH >= HIDDEN:
        kept = tl.minimum(rows, n_rows - 1)
        return rows, _load_depths(vectors_ptr, kept, 0, HIDDEN, BLOCK_DEPTH)
    else:
        return rows, rows


@triton.jit
def score_tile(
    resident,
    vectors_ptr,
    table_ptr,
    bias_ptr,
    rows,
    first,
    n_rows,
    n_items,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Scores of a tile, [rows, words, 32]; beyond the corpus those of its last row or item."""
    items = tl.minimum(first + tl.arange(0, BLOCK_ITEMS), n_items - 1)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_ITEMS), tl.float32)
    if BLOCK_DEPTH >= HIDDEN:
        of_items = _load_depths(table_ptr, items, 0, HIDDEN, BLOCK_DEPTH)
        sums = _add_product(sums, resident, of_items, PRECISION)
    else:
        kept = tl.minimum(rows, n_rows - 1)
        for start in range(0, HIDDEN, BLOCK_DEPTH):
            vectors = _load_depths(vectors_ptr, kept, start, HIDDEN, BLOCK_DEPTH)
            of_items = _load_depths(table_ptr, items, start, HIDDEN, BLOCK_DEPTH)
            sums = _add_product(sums, vectors, of_items, PRECISION)
    sums += tl.load(bias_ptr + first + tl.arange(0, BLOCK_ITEMS))[None, :]
    return tl.reshape(sums, (BLOCK_ROWS, BLOCK_ITEMS // WORD, WORD))


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _sample_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    bits_ptr,
    chosen_ptr,
    out_ptr,
    n_rows,
    n_items,
    n_words,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Scores of a few items, -inf where their bits are set, written."""
    rows, resident = load_vectors(vectors_ptr, n_rows, HIDDEN, BLOCK_ROWS, BLOCK_DEPTH)
    first = tl.program_id(1) * BLOCK_ITEMS
    scores = score_tile(
        resident, vectors_ptr, table_ptr, bias_ptr, rows, first, n_rows, n_items,
        HIDDEN, PRECISION, BLOCK_ROWS, BLOCK_ITEMS, BLOCK_DEPTH,
    )  # fmt: skip
    items = first + tl.arange(0, BLOCK_ITEMS)
    inside = (rows < n_rows)[:, None] & (items < n_items)[None, :]
    chosen = tl.load(chosen_ptr + items, mask=items < n_items, other=0)[None, :]
    rows = rows.to(tl.int64)[:, None]
    words = tl.load(bits_ptr + rows * n_words + chosen // WORD, mask=inside, other=0)
    scores = tl.reshape(scores, (BLOCK_ROWS, BLOCK_ITEMS))
    scores = tl.where((words >> (chosen % WORD).to(tl.int32)) & 1 != 0, float("-inf"), scores)
    tl.store(out_ptr + rows * n_items + items[None, :], scores, mask=inside)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _gathered_kernel(
    vectors_ptr,
    table_ptr,
    bias_ptr,
    rows_ptr,
    items_ptr,
    out_ptr,
    n_pairs,
    HIDDEN: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Scores of single pairs of a user and an item."""
    pairs = tl.program_id(0).to(tl.int64) * BLOCK_PAIRS + tl.arange(0, BLOCK_PAIRS)
    inside = pairs < n_pairs
    rows = tl.load(rows_ptr + pairs, mask=inside, other=0).to(tl.int64)
    items = tl.load(items_ptr + pairs, mask=inside, other=0).to(tl.int64)
    sums = tl.zeros((BLOCK_PAIRS,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_DEPTH):
        vectors = _load_depths(vectors_ptr, rows, start, HIDDEN, BLOCK_DEPTH).to(tl.float32)
        of_items = _load_depths(table_ptr, items, start, HIDDEN, BLOCK_DEPTH).to(tl.float32)
        sums += tl.sum(vectors * of_items, axis=1)
    bias = tl.load(bias_ptr + items)
    tl.store(out_ptr + pairs, sums + bias, mask=inside)


def sample_scores(corpus: Corpus, chosen: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """float32 [B, S] for the chosen items; -inf for those whose bits are set."""
    of_chosen = corpus.table[chosen], corpus.bias[chosen]
    sample = Corpus(corpus.vectors, *of_chosen, corpus.tile)
    out = corpus.bias.new_empty((corpus.n_rows, len(chosen)))
    grid = (
        triton.cdiv(corpus.n_rows, corpus.tile.rows),
        triton.cdiv(len(chosen), corpus.tile.items),
    )
    with torch.cuda.device_of(out):
        _sample_kernel[grid](
            bits_ptr=bits,
            chosen_ptr=chosen,
            out_ptr=out,
            n_words=bits.shape[1],
            **sample.arguments(),
        )
    return out


def scores_of_pairs(corpus: Corpus, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """float32 [P]; may differ by rounding from what the tiles hold."""
    out = corpus.bias.new_empty(len(items))
    if len(items):
        with torch.cuda.device_of(out):
            _gathered_kernel[(triton.cdiv(len(items), _PAIRS),)](
                corpus.vectors,
                corpus.table,
                corpus.bias,
                rows,
                items,
                out,
                len(items),
                HIDDEN=corpus.table.shape[1],
                BLOCK_PAIRS=_PAIRS,
                BLOCK_DEPTH=min(max(triton.next_power_of_2(corpus.table.shape[1]), 16), 128),
            )
    return out
