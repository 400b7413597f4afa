"""The noised input of diffusion training, made in one pass from sparse histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension, extension_problem, triton_problem
from pdrec_fast.ops.arguments import (
    check_dropout,
    check_random_key,
    check_tensors,
    csr,
    per_row,
    random_keys,
    signed_seed,
)
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import noisy_input as reference

_Array = npt.NDArray[Any]
_Noised = tuple[_Array, _Array, _Array, _Array, _Array]


def noisy_input(
    indptr: npt.NDArray[np.int64] | torch.Tensor,
    items: npt.NDArray[np.int32] | torch.Tensor,
    values: npt.NDArray[np.float32] | torch.Tensor,
    n_items: int,
    signal: npt.NDArray[np.float32] | torch.Tensor,
    sigma: npt.NDArray[np.float32] | torch.Tensor,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: npt.NDArray[np.int64] | torch.Tensor,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
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
        device: of the result. Where all the arrays are tensors on it already, ``"triton"`` checks
            their shapes and dtypes only: to look at the numbers would be to wait for the GPU.
        out: contiguous tensor of that device, dtype and shape [B, N] to write to.
        impl: ``"auto"``, ``"triton"`` (a GPU), ``"cpp"`` or ``"reference"``. Dropout is the same in
            all; Triton's and the C++ noise is computed in float32 and within 1e-5 of the
            reference's, which is in float64.

    Returns:
        [B, N] of ``dtype``; ``out`` where it is given.

    Raises:
        ValueError: an argument is out of its range, or ``out`` does not fit.
        BackendError: the named implementation cannot run here.
    """
    device = torch.empty(0, device=device).device  # with its index
    chosen = choose("noisy_input", impl, _offered(device))
    rows = indptr, items, values, n_items, signal, sigma, dropout
    keys: dict[str, Any] = {"seed": seed, "epoch": epoch, "users": users}
    if chosen == "triton":
        tensors = device_arguments(*rows, **keys, device=device)
        out = _output(out, len(tensors[-1]), n_items, dtype, device)
        _write_on_triton(out, *tensors, float(dropout), signed_seed(seed), epoch)
        return out
    arrays, users, keep_from = noise_arguments(*rows, **keys)
    result = _output(out, len(users), n_items, dtype, device)
    on_cpu = result.cpu()
    if chosen == "reference":
        reference.noisy_input(*arrays, dropout, keep_from, seed, epoch, users, on_cpu)
    else:
        narrow = dtype == torch.bfloat16
        extension.noisy_input(
            *arrays,
            dropout > 0,
            keep_from,
            1 / (1 - dropout),
            seed,
            epoch,
            users,
            on_cpu.view(torch.int16).numpy().view(np.uint16) if narrow else on_cpu.numpy(),
            torch.get_num_threads(),
        )
    return result.copy_(on_cpu)


def noise_arguments(
    indptr: Any,
    items: Any,
    values: Any,
    n_items: int,
    signal: Any,
    sigma: Any,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: Any,
) -> tuple[_Noised, npt.NDArray[np.int64], int]:
    """((indptr, items, values, signal, sigma), users, keep_from), checked and as kernels read them.

    ``keep_from`` is the least word of the dropout stream for which an item is kept.

    Raises:
        ValueError: see ``noisy_input``.
    """
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
    check_dropout(dropout)
    users = random_keys(seed, epoch, users, n_rows)
    return (indptr, items, values, signal, sigma), users, round(dropout * 2**32)


def device_arguments(
    indptr: Any,
    items: Any,
    values: Any,
    n_items: int,
    signal: Any,
    sigma: Any,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: Any,
    device: torch.device,
) -> list[torch.Tensor]:
    """[indptr, items, values, signal, sigma, users] on ``device``.

    Checked as by ``noise_arguments``; where all are there already, in shape and dtype only.
    """
    arrays = [indptr, items, values, signal, sigma, users]
    if not all(isinstance(array, torch.Tensor) and array.device == device for array in arrays):
        rows = indptr, items, values, n_items, signal, sigma, dropout
        checked, users, _ = noise_arguments(*rows, seed=seed, epoch=epoch, users=users)
        return [torch.from_numpy(array).to(device) for array in (*checked, users)]
    check_dropout(dropout)
    check_random_key(seed, epoch)
    n_rows = len(indptr) - 1
    float32, int64 = torch.float32, torch.int64
    dtypes = int64, torch.int32, float32, float32, float32, int64
    lengths = n_rows + 1, len(items), len(items), n_rows, n_rows, n_rows
    names = "indptr", "items", "values", "signal", "sigma", "users"
    check_tensors(names, arrays, dtypes, lengths)
    return [tensor.contiguous() for tensor in arrays]


def _offered(device: torch.device) -> dict[str, str | None]:
    on_triton = {"triton": triton_problem(device.type)}
    others = {"cpp": extension_problem, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    return others | on_triton if device.type == "cpu" else on_triton | others


@torch.library.custom_op("pdrec_fast::noisy_input", mutates_args=("out",))
def _write_on_triton(
    out: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    dropout: float,
    seed: int,
    epoch: int,
) -> None:
    from pdrec_fast.kernels.triton.denoising import noisy_input as kernels

    if len(out):
        arrays = indptr, items, values, signal, sigma, users
        kernels.noisy_input(kernels.RandomKey(dropout, seed, epoch), out, *arrays)


@_write_on_triton.register_fake
def _(
    out: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    dropout: float,
    seed: int,
    epoch: int,
) -> None:
    return None


def _finite(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(finite.argmin())
        raise ValueError(f"{name} must be finite, got {values[at]} at {at}")
    return values


def _output(
    out: torch.Tensor | None,
    n_rows: int,
    n_items: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    if out is None:
        return torch.empty((n_rows, n_items), dtype=dtype, device=device)
    if (
        out.shape != (n_rows, n_items)
        or out.dtype != dtype
        or out.device != device
        or not out.is_contiguous()
        or out.requires_grad
    ):
        raise ValueError(
            f"out must be a contiguous {dtype} tensor on {device} of shape [{n_rows}, {n_items}] "
            f"that needs no gradient, got {out.dtype} on {out.device} of shape {tuple(out.shape)}"
        )
    return out
