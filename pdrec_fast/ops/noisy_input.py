"""The noised input of diffusion training, made in one pass from sparse histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.ops.arguments import csr, per_row, random_keys
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference import noisy_input as reference


def noisy_input(
    indptr: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    n_items: int,
    signal: npt.NDArray[np.float32] | torch.Tensor,
    sigma: npt.NDArray[np.float32] | torch.Tensor,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: npt.NDArray[np.int64] | torch.Tensor,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """``keep / (1 - p) * (signal * x0 + sigma * eps)`` for each of B rows.

    This is the forward process ``q(x_t | x_0)`` (Ho et al., 2020), with dropout of the input.
    ``eps`` is standard normal (stream 0 of the counter-based generator, by Box and Muller) and
    ``keep`` is 1 with probability 1 - p (stream 1). Both depend on (seed, epoch, user, item)
    alone, whatever the batch and the number of threads.

    Args:
        indptr: int64 [B + 1]; row b of x0 has ``items[indptr[b]:indptr[b + 1]]``.
        items: int32 [n], unique within a row, in any order.
        values: float32 [n], x0 at those items; finite.
        n_items: N.
        signal: float32 [B], sqrt(alpha_bar) at each row's step; finite.
        sigma: float32 [B], finite and at least 0; a row with 0 gets no noise.
        dropout: p in [0, 1); 0 keeps everything.
        seed: in 0 .. 2**64 - 1.
        epoch: in 0 .. 2**32 - 1.
        users: int64 [B], in 0 .. 2**32 - 1: the user whose random numbers a row takes.
        dtype: of the result, float32 or bfloat16 (rounded to nearest even).
        out: contiguous CPU tensor of that dtype and shape [B, N] to write to.
        impl: ``"auto"``, ``"cpp"`` or ``"reference"``. Dropout is the same in all; the C++ noise is
            computed in float32 and within 1e-5 of the reference's, which is in float64.

    Returns:
        [B, N] of ``dtype``; ``out`` where it is given.

    Raises:
        ValueError: an argument is out of its range, or ``out`` does not fit.
        BackendError: the named implementation cannot run here.
    """
    chosen = choose("noisy_input", impl, {"cpp": extension_problem, "reference": None})
    if not 1 <= n_items < 2**31:
        raise ValueError(f"n_items must lie in 1 .. 2**31 - 1, got {n_items}")
    n_rows = max(len(indptr) - 1, 0)
    indptr, items = csr(indptr, items, n_rows, n_items)
    values = _finite("values", per_row("values", values, np.float32, len(items)))
    signal = _finite("signal", per_row("signal", signal, np.float32, n_rows))
    sigma = _finite("sigma", per_row("sigma", sigma, np.float32, n_rows))
    if (sigma < 0).any():
        row = int((sigma < 0).argmax())
        raise ValueError(f"sigma must be at least 0, got {sigma[row]} in row {row}")
    if not 0 <= dropout <= 1 - 2**-32:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    users = random_keys(seed, epoch, users, n_rows)
    out = _output(out, n_rows, n_items, dtype)
    keep_from = round(dropout * 2**32)
    if chosen == "reference":
        return reference.noisy_input(
            indptr, items, values, signal, sigma, dropout, keep_from, seed, epoch, users, out
        )
    extension.noisy_input(
        indptr,
        items,
        values,
        signal,
        sigma,
        dropout > 0,
        keep_from,
        1 / (1 - dropout),
        seed,
        epoch,
        users,
        out.numpy() if dtype == torch.float32 else out.view(torch.int16).numpy().view(np.uint16),
        torch.get_num_threads(),
    )
    return out


def _finite(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(finite.argmin())
        raise ValueError(f"{name} must be finite, got {values[at]} at {at}")
    return values


def _output(
    out: torch.Tensor | None, n_rows: int, n_items: int, dtype: torch.dtype
) -> torch.Tensor:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    if out is None:
        return torch.empty((n_rows, n_items), dtype=dtype)
    if (
        out.shape != (n_rows, n_items)
        or out.dtype != dtype
        or out.device.type != "cpu"
        or not out.is_contiguous()
        or out.requires_grad
    ):
        raise ValueError(
            f"out must be a contiguous {dtype} CPU tensor of shape [{n_rows}, {n_items}] that "
            f"needs no gradient, got {out.dtype} on {out.device} of shape {tuple(out.shape)}"
        )
    return out
