"""The noised input of diffusion training, made in one pass from sparse histories."""

from __future__ import annotations

import numpy as np
import torch

from pdrec_fast import buffers
from pdrec_fast.build_info import extension, extension_problem, triton_problem
from pdrec_fast.operands import ItemRows, Noise, contiguous
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._rows import Values, noised_rows
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import noisy_input as reference


def noisy_input(
    indptr: Values,
    items: Values,
    values: Values,
    n_items: int,
    signal: Values,
    sigma: Values,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: Values,
    first_item: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    out: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """``F.dropout(signal * x0 + sigma * torch.randn_like(x0), p)``, row by row of x0 [B, N].

    Every row is ``keep / (1 - p) * (signal * x0 + sigma * eps)``, the forward process ``q(x_t |
    x_0)`` (Ho et al., 2020), with dropout of the input. ``eps`` is standard normal, by Box and
    Muller, from the stream ``NOISE`` of the counter-based generator; ``keep`` is 1 with probability
    1 - p, from ``DROPOUT``. Both depend on (seed, epoch, user, item) alone, not on the batch or the
    number of threads. Column n stands for item ``first_item + n``: a process that holds a shard of
    the items makes those columns of the whole, to the bit.

    Args:
        indptr: int64 [B + 1]; row b of x0 has ``items[indptr[b]:indptr[b + 1]]``.
        items: int32 [n], columns of x0, unique within a row, in any order.
        values: float32 [n], x0 at those items; finite.
        n_items: N.
        signal: float32 [B], sqrt(alpha_bar) at each row's step; finite.
        sigma: float32 [B], finite and at least 0; a row with 0 gets no noise.
        dropout: p in [0, 1); 0 keeps everything.
        seed: in 0 .. 2**64 - 1.
        epoch: in 0 .. 2**32 - 1.
        users: int64 [B], in 0 .. 2**32 - 1: the user whose random numbers a row takes.
        first_item: the item of column 0, a multiple of 4 (random words come four items to a
            block); ``first_item + N`` below 2**31.
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
    rows = ItemRows._make((indptr, items, values, n_items))
    noise = Noise._make((signal, sigma, users, dropout, seed, epoch, first_item))
    rows, noise = noised_rows(rows, noise, device if chosen == "triton" else None)
    result = _output(out, (len(noise.users), n_items), dtype, device)
    if chosen == "triton":
        _noisy_input(result, rows, noise)
        return result
    on_cpu = result.cpu()
    if chosen == "reference":
        reference.noisy_input(rows, noise, on_cpu)
    else:
        _on_host(rows, noise, on_cpu)
    return result.copy_(on_cpu)


def _offered(device: torch.device) -> dict[str, str | None]:
    on_triton = {"triton": triton_problem(device.type)}
    others = {"cpp": extension_problem, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    return others | on_triton if device.type == "cpu" else on_triton | others


@operation(fake=lambda a: None, mutates=["out"])
def _noisy_input(out: torch.Tensor, rows: ItemRows, noise: Noise) -> None:
    from pdrec_fast.kernels.triton.denoising import noisy_input as kernels

    if len(out):
        kernels.noisy_input(out, contiguous(rows), contiguous(noise))


def _on_host(rows: ItemRows, noise: Noise, out: torch.Tensor) -> None:
    narrow = out.dtype == torch.bfloat16
    extension.noisy_input(
        rows.indptr.numpy(),
        rows.items.numpy(),
        rows.values.numpy(),
        noise.signal.numpy(),
        noise.sigma.numpy(),
        noise.dropout > 0,
        noise.keep_from,
        noise.keep_scale,
        noise.seed % 2**64,
        noise.epoch,
        noise.users.numpy(),
        noise.first_block,
        out.view(torch.int16).numpy().view(np.uint16) if narrow else out.numpy(),
        torch.get_num_threads(),
    )


def _output(
    out: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    if out is None:
        return buffers.empty(shape, dtype, device)
    if (
        out.shape != shape
        or out.dtype != dtype
        or out.device != device
        or not out.is_contiguous()
        or out.requires_grad
    ):
        raise ValueError(
            f"out must be a contiguous {dtype} tensor on {device} of shape {list(shape)} "
            f"that needs no gradient, got {out.dtype} on {out.device} of shape {tuple(out.shape)}"
        )
    return out
