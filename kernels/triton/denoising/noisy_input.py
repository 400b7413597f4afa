# mypy: disallow-untyped-defs=False
"""x_t of diffusion training and its noise, from sparse histories and counter-based random numbers.

Four items take one Philox block for eps, one for keep, and two Box-Muller pairs. This arithmetic
bounds it, not the 2 B N bytes that it writes in bf16 (docs/performance.md), so that its tile only
has to keep the stores wide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast import random_keys
from pdrec_fast.operands import ItemRows, Noise

NOISE = tl.constexpr(random_keys.NOISE)
DROPOUT = tl.constexpr(random_keys.DROPOUT)
NOT_SPECIALIZED = (
    *("seed", "epoch", "keep_from", "n_rows", "n_nonzeros", "n_slabs"),
    "first_block",  # of the items of a process
    *("items_ptr", "values_ptr"),  # within those of an epoch, aligned or not
)
"""They change from batch to batch or between processes, and compiling anew for some of their values
gains nothing."""

_PER_PROGRAM = 128  # non-zeros
_TILE = (4, 512)  # rows, items


def word_arguments(noise: Noise) -> dict[str, object]:
    """The kernels' arguments of these names."""
    return {
        "seed": noise.seed,
        "epoch": noise.epoch,
        "first_block": noise.first_block,
        "keep_from": noise.keep_from,
        "keep_scale": noise.keep_scale,
        "HAS_DROPOUT": noise.dropout > 0,
    }


@triton.jit
def _negate_if_odd(odd, value):
    return tl.where((odd & 1) != 0, -value, value)


@triton.jit
def _log_fraction(m):
    """ln(m / 2**25) for odd m.

    Above 1/2 a float cannot hold m / 2**25, but it holds m / 2**25 - 1, which keeps the full
    relative precision near 1, where the logarithm vanishes.
    """
    offset = (m.to(tl.float32) * 2.98023224e-08).to(tl.int32, bitcast=True) - 0x3F3504F3
    scale = (offset >> 23).to(tl.float32)
    mantissa = ((offset & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
    below_one = (m - 0x2000000).to(tl.float32) * 2.98023224e-08
    exact = (1.0 - scale) * below_one - scale  # above 1/2 the scale is 0 or -1
    f = tl.where(m >= 0x1000000, exact, mantissa - 1.0)
    q = -0.0810153857 * f + 0.127123077
    q = q * f - 0.129722388
    q = q * f + 0.142021738
    q = q * f - 0.166422476
    q = q * f + 0.200014686
    q = q * f - 0.250002965
    q = q * f + 0.333333286
    square = f * f
    return scale * 0.693147181 + (f * square * q - 0.5 * square + f)


@triton.jit
def _normal_pair(word0, word1):
    """Two independent normals from two words (Box and Muller, 1958)."""
    m0 = ((word0 >> 8 << 1) | 1).to(tl.int32)
    m1 = ((word1 >> 8 << 1) | 1).to(tl.int32)
    radius = tl.sqrt(-2.0 * _log_fraction(m0))
    # The angle is a number of quarter turns plus at most an eighth of a turn.
    quarter = (m1 + 0x400000) >> 23
    angle = (m1 - (quarter << 23)).to(tl.float32) * 1.87253645e-07
    z = angle * angle
    sine = angle + angle * z * ((-0.00019587950 * z + 0.00833274863) * z - 0.166666647)
    cosine = z * z * ((2.45479913e-05 * z - 0.00138883033) * z + 0.0416666647) - 0.5 * z + 1.0
    swapped = (quarter & 1) != 0
    first = radius * _negate_if_odd((quarter + 1) >> 1, tl.where(swapped, sine, cosine))
    second = radius * _negate_if_odd(quarter >> 1, tl.where(swapped, cosine, sine))
    return first, second


@triton.jit
def noise_tile(sigma, users, blocks, seed, epoch, keep_from, keep_scale, HAS_DROPOUT: tl.constexpr):
    """keep / (1 - p) * sigma * eps of rows x blocks of four items: [rows, 4 * blocks]."""
    user, block = users[:, None], blocks[None, :]
    word0, word1, word2, word3 = tl.philox(seed, block, user, epoch, NOISE)
    noise0, noise1 = _normal_pair(word0, word1)
    noise2, noise3 = _normal_pair(word2, word3)
    if HAS_DROPOUT:
        word0, word1, word2, word3 = tl.philox(seed, block, user, epoch, DROPOUT)
        noise0 = tl.where(word0 >= keep_from, noise0, 0.0)
        noise1 = tl.where(word1 >= keep_from, noise1, 0.0)
        noise2 = tl.where(word2 >= keep_from, noise2, 0.0)
        noise3 = tl.where(word3 >= keep_from, noise3, 0.0)
    noise = tl.interleave(tl.interleave(noise0, noise2), tl.interleave(noise1, noise3))
    return noise * (sigma * keep_scale)[:, None]


@triton.jit
def load_rows(sigma_ptr, users_ptr, rows, n_rows):
    sigma = tl.load(sigma_ptr + rows, mask=rows < n_rows, other=0.0)
    users = tl.load(users_ptr + rows, mask=rows < n_rows, other=0)
    return sigma, users.to(tl.uint32)


@triton.jit
def _of_four(item, first, second, third, fourth):
    """What a block of four gives this item."""
    low = tl.where((item & 1) != 0, second, first)
    high = tl.where((item & 1) != 0, fourth, third)
    return tl.where((item & 2) != 0, high, low)


@triton.jit(do_not_specialize=(*NOT_SPECIALIZED, "n_items"))
def _nonzeros_kernel(
    rows_ptr,
    items_ptr,
    values_ptr,
    signal_ptr,
    sigma_ptr,
    users_ptr,
    out_ptr,
    n_nonzeros,
    n_items,
    seed,
    epoch,
    first_block,
    keep_from,
    keep_scale,
    HAS_DROPOUT: tl.constexpr,
    INTO_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x_t at the non-zeros of x0, written to x_t.

    Without INTO_X: x_t without its noise, in the order of the non-zeros.
    """
    seed, epoch, keep_from = seed.to(tl.uint64), epoch.to(tl.uint32), keep_from.to(tl.uint32)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < n_nonzeros
    rows = tl.load(rows_ptr + places, mask=inside, other=0)
    items = tl.load(items_ptr + places, mask=inside, other=0)
    users = tl.load(users_ptr + rows, mask=inside, other=0).to(tl.uint32)
    x = tl.load(values_ptr + places, mask=inside, other=0.0)
    x *= tl.load(signal_ptr + rows, mask=inside, other=0.0)
    at = places.to(tl.int64)
    blocks = first_block + (items >> 2)
    if INTO_X:
        word0, word1, word2, word3 = tl.philox(seed, blocks, users, epoch, NOISE)
        noise0, noise1 = _normal_pair(word0, word1)
        noise2, noise3 = _normal_pair(word2, word3)
        sigma = tl.load(sigma_ptr + rows, mask=inside, other=0.0)
        x += sigma * _of_four(items, noise0, noise1, noise2, noise3)
        at = rows * n_items + items
    x *= keep_scale
    if HAS_DROPOUT:
        word0, word1, word2, word3 = tl.philox(seed, blocks, users, epoch, DROPOUT)
        x = tl.where(_of_four(items, word0, word1, word2, word3) >= keep_from, x, 0.0)
    tl.store(out_ptr + at, x, mask=inside)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _noise_kernel(
    sigma_ptr,
    users_ptr,
    out_ptr,
    n_rows,
    n_items,
    seed,
    epoch,
    first_block,
    keep_from,
    keep_scale,
    HAS_DROPOUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
):
    """x_t without its signal: [n_rows, n_items]."""
    seed, epoch, keep_from = seed.to(tl.uint64), epoch.to(tl.uint32), keep_from.to(tl.uint32)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first = tl.program_id(0) * BLOCK_ITEMS
    sigma, users = load_rows(sigma_ptr, users_ptr, rows, n_rows)
    blocks = first_block + first // 4 + tl.arange(0, BLOCK_ITEMS // 4)
    x = noise_tile(sigma, users, blocks, seed, epoch, keep_from, keep_scale, HAS_DROPOUT)
    items = first + tl.arange(0, BLOCK_ITEMS)
    inside = (rows < n_rows)[:, None] & (items < n_items)[None, :]
    tl.store(out_ptr + rows.to(tl.int64)[:, None] * n_items + items[None, :], x, mask=inside)


def noisy_input(out: torch.Tensor, rows: ItemRows, noise: Noise) -> None:
    """x_t into ``out`` [B, N], B at least 1; contiguous tensors on one device."""
    n_rows, n_items = out.shape
    block_rows, block_items = _TILE
    grid = triton.cdiv(n_items, block_items), triton.cdiv(n_rows, block_rows)
    with torch.cuda.device_of(out):
        _noise_kernel[grid](
            noise.sigma,
            noise.users,
            out,
            n_rows,
            n_items,
            **word_arguments(noise),
            BLOCK_ROWS=block_rows,
            BLOCK_ITEMS=block_items,
        )
    _at_nonzeros(rows, noise, out, into_x=True)


def signals_at_nonzeros(rows: ItemRows, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
    """(row int64 [n], x_t without its noise float32 [n]) of each non-zero of x0."""
    signals = torch.empty(len(rows.items), dtype=torch.float32, device=rows.items.device)
    return _at_nonzeros(rows, noise, signals, into_x=False), signals


def _at_nonzeros(rows: ItemRows, noise: Noise, out: torch.Tensor, *, into_x: bool) -> torch.Tensor:
    """Fills ``out``; the row of each non-zero."""
    n_nonzeros = len(rows.items)
    row_indices = torch.repeat_interleave(rows.indptr.diff(), output_size=n_nonzeros)
    if n_nonzeros:
        with torch.cuda.device_of(out):
            _nonzeros_kernel[(triton.cdiv(n_nonzeros, _PER_PROGRAM),)](
                row_indices,
                rows.items,
                rows.values,
                *noise[:3],
                out,
                n_nonzeros,
                out.shape[-1],
                **word_arguments(noise),
                INTO_X=into_x,
                BLOCK=_PER_PROGRAM,
            )
    return row_indices
