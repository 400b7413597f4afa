"""What operations on sparse rows share: their arguments, checked and where kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.operands import ItemRows, Noise, SparseTarget
from pdrec_fast.ops.arguments import (
    check_dropout,
    check_random_key,
    check_tensors,
    csr,
    per_row,
    random_keys,
    signed_seed,
)

Values = npt.NDArray[Any] | torch.Tensor


def rows_on(device: torch.device, rows: ItemRows) -> ItemRows:
    """``rows``, of arrays or tensors, on ``device``.

    They are checked on the host; where all are tensors on ``device`` already, in shape and dtype
    only: to look at the numbers would be to wait for the GPU.

    Raises:
        ValueError: shapes or dtypes do not fit, or ``indptr`` or an item is out of its range.
    """
    if not _all_on(device, rows[:3]):
        return ItemRows._make((*_tensors(_checked_rows(rows), device), rows.n_items))
    dtypes = torch.int64, torch.int32, torch.float32
    lengths = max(len(rows.indptr), 1), len(rows.items), len(rows.items)
    check_tensors(rows._fields[:3], rows[:3], dtypes, lengths)
    return rows


def noised_rows(
    rows: ItemRows, noise: Noise, device: torch.device | None = None
) -> tuple[ItemRows, Noise]:
    """``rows`` and ``noise``, of arrays or tensors and a seed without sign, for an operation.

    Args:
        device: where a kernel reads them, which takes what is there already as ``rows_on`` does;
            None checks every number and brings them to the host.

    Raises:
        ValueError: see ``noisy_input``.
    """
    _check_items(rows.n_items, noise.first_item)
    key = float(noise.dropout), signed_seed(noise.seed), noise.epoch, noise.first_item
    if device is None or not _all_on(device, (*rows[:3], *noise[:3])):
        arrays = _checked_noised_rows(rows, noise)
        tensors = _tensors(arrays, device or torch.device("cpu"))
        return ItemRows._make((*tensors[:3], rows.n_items)), Noise._make((*tensors[3:], *key))
    rows = rows_on(device, rows)
    check_dropout(noise.dropout)
    check_random_key(noise.seed, noise.epoch)
    dtypes = torch.float32, torch.float32, torch.int64
    check_tensors(noise._fields[:3], noise[:3], dtypes, [len(rows.indptr) - 1] * 3)
    return rows, Noise._make((*noise[:3], *key))


def _all_on(device: torch.device, values: tuple[Any, ...]) -> bool:
    return all(isinstance(x, torch.Tensor) and x.device == device for x in values)


def _tensors(arrays: list[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """On ``device``; views of the arrays where that is the host and they may be written to."""
    owned = (array if array.flags.writeable else array.copy() for array in arrays)
    return [torch.from_numpy(array).to(device) for array in owned]


def _checked_rows(rows: ItemRows) -> list[npt.NDArray[Any]]:
    """[indptr, items, values]"""
    n_rows = max(len(rows.indptr) - 1, 0)
    indptr, items = csr(rows.indptr, rows.items, n_rows, rows.n_items)  # type: ignore[arg-type]
    return [indptr, items, per_row("values", rows.values, np.float32, len(items))]


def _checked_noised_rows(rows: ItemRows, noise: Noise) -> list[npt.NDArray[Any]]:
    """[indptr, items, values, signal, sigma, users]"""
    indptr, items, values = _checked_rows(rows)
    n_rows = len(indptr) - 1
    _check_finite("values", values)
    signal = _check_finite("signal", per_row("signal", noise.signal, np.float32, n_rows))
    sigma = _check_finite("sigma", per_row("sigma", noise.sigma, np.float32, n_rows))
    if (sigma < 0).any():
        row = int((sigma < 0).argmax())
        raise ValueError(f"sigma must be at least 0, got {sigma[row]} in row {row}")
    check_dropout(noise.dropout)
    users = random_keys(noise.seed, noise.epoch, noise.users, n_rows)
    return [indptr, items, values, signal, sigma, users]


def _check_items(n_items: int, first_item: int) -> None:
    if not 1 <= n_items < 2**31:
        raise ValueError(f"n_items must lie in 1 .. 2**31 - 1, got {n_items}")
    if first_item < 0 or first_item % 4:
        raise ValueError(
            f"first_item must be 0 or a positive multiple of 4, got {first_item}: random words "
            "come four items to a block"
        )
    if first_item + n_items >= 2**31:
        raise ValueError(
            f"first_item plus the number of items must be below 2**31, got {first_item} + {n_items}"
        )


def _check_finite(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(finite.argmin())
        raise ValueError(f"{name} must be finite, got {values[at]} at {at}")
    return values


def check_layer(hidden: torch.Tensor, item_out: torch.Tensor) -> None:
    """Raise a ValueError where states and the items' vectors do not share a width."""
    if hidden.ndim != 2 or item_out.ndim != 2 or hidden.shape[1] != item_out.shape[1]:
        raise ValueError(
            "hidden [B, H] and item_out [N, H] must share H, got shapes "
            f"{tuple(hidden.shape)} and {tuple(item_out.shape)}"
        )


def check_target(target: SparseTarget, bias: torch.Tensor, n_rows: int, n_items: int) -> None:
    """Raise a ValueError where a sparse target or the items' bias does not fit a layer's output; on
    a CPU also where a coordinate lies outside of it."""
    if bias.shape != (n_items,):
        raise ValueError(f"item_bias must have shape [{n_items}], got {tuple(bias.shape)}")
    shapes = {tuple(part.shape) for part in (target.rows, target.items, target.values)}
    if len(shapes) != 1:
        raise ValueError(f"rows, items and values must be equally long, got shapes {shapes}")
    if target.rows.device.type != "cpu" or not len(target.rows):
        return  # a GPU would have to wait
    for name, part, size in (("rows", target.rows, n_rows), ("items", target.items, n_items)):
        least, most = (int(value) for value in part.aminmax())
        if least < 0 or most >= size:
            wrong = least if least < 0 else most
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {wrong}")
