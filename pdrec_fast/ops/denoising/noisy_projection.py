"""The denoiser's first layer on the noised input of diffusion training, from sparse histories."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.build_info import triton_problem
from pdrec_fast.operands import ItemRows, Noise, contiguous
from pdrec_fast.ops.arguments import autocast_dtype
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._rows import Values, noised_rows
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import noisy_projection as reference


def noisy_projection(
    indptr: Values,
    items: Values,
    values: Values,
    weight: torch.Tensor,
    signal: Values,
    sigma: Values,
    dropout: float,
    *,
    seed: int,
    epoch: int,
    users: Values,
    first_item: int = 0,
    impl: str = "auto",
) -> torch.Tensor:
    """``F.dropout(signal * x0 + sigma * torch.randn_like(x0), p) @ weight``.

    The left factor, x_t, is what ``noisy_input`` makes of the same arguments; ``"triton"`` makes it
    within the product, in the gradient too, and never stores its [B, N] numbers. Differentiable,
    once, in ``weight``. Under autocast to bfloat16 the product takes the weight in bfloat16.

    Args:
        indptr, items, values, signal, sigma, dropout, seed, epoch, users, first_item: see
            ``noisy_input``. They are checked and copied to the weight's device; where all the
            arrays are tensors on it already, ``"triton"`` checks shapes and dtypes only, without
            waiting for the GPU.
        weight: [N, H], float32 or bfloat16 (float64 for the reference), of the items from
            ``first_item`` on. x_t is rounded to its dtype; sums are in float32.
        impl: ``"auto"``, ``"triton"`` (a GPU), ``"materialized"``: ``noisy_input``, kept for the
            gradient, and matrix products, or ``"reference"``: in float64, rounded at the end.
            The same items are dropped in all.

    Returns:
        [B, H], of the weight's dtype.

    Raises:
        ValueError: an argument is out of its range, or shapes or dtypes do not fit.
        BackendError: the named implementation cannot run here.
    """
    chosen = choose("noisy_projection", impl, _offered(weight))
    if weight.ndim != 2 or not weight.is_floating_point() or 0 in weight.shape:
        raise ValueError(
            "weight must be a floating tensor of shape [N, H], N and H at least 1, got "
            f"{weight.dtype} of shape {tuple(weight.shape)}"
        )
    if chosen == "materialized":
        weight = _as_autocast(weight)
        arrays = indptr, items, values, len(weight), signal, sigma, dropout
        keywords: dict[str, Any] = {"seed": seed, "epoch": epoch, "users": users}
        keywords |= {"first_item": first_item, "dtype": weight.dtype, "device": weight.device}
        x = noisy_input(*arrays, **keywords)
        return _input_projection(x, weight)
    rows = ItemRows._make((indptr, items, values, len(weight)))
    noise = Noise._make((signal, sigma, users, dropout, seed, epoch, first_item))
    rows, noise = noised_rows(rows, noise, weight.device if chosen == "triton" else None)
    if chosen == "reference":
        return reference.noisy_projection(rows, noise, weight)
    return _noisy_projection(_as_autocast(weight), rows, noise)


def _offered(weight: torch.Tensor) -> dict[str, str | None]:
    wide = None
    if weight.dtype not in (torch.float32, torch.bfloat16):
        wide = f"it takes a float32 or bfloat16 weight, got {weight.dtype}"
    on_triton = {"triton": wide or triton_problem(weight.device.type)}
    others: dict[str, str | None] = {"materialized": wide, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    return others | on_triton if weight.device.type == "cpu" else on_triton | others


def _as_autocast(weight: torch.Tensor) -> torch.Tensor:
    bfloat16 = autocast_dtype(weight.device.type) == torch.bfloat16
    return weight.bfloat16() if bfloat16 else weight


@operation(fake=lambda a: a.x.new_empty((len(a.x), a.weight.shape[1])))
def _input_projection(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x @ weight``, whose gradient may take kept memory."""
    return x @ weight


@_input_projection.gradient(of=["weight"], saves=["x"])
def _(saved: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor]:
    return (buffers.mm(saved.x.T, grad_out),)


@operation(fake=lambda a: a.weight.new_empty((len(a.noise.users), a.weight.shape[1])))
def _noisy_projection(weight: torch.Tensor, rows: ItemRows, noise: Noise) -> torch.Tensor:
    from pdrec_fast.kernels.triton.denoising import noisy_projection as kernels

    if not len(noise.users):
        return weight.new_empty((0, weight.shape[1]))
    return kernels.noisy_projection(weight.contiguous(), contiguous(rows), contiguous(noise))


@operation(fake=lambda a: a.grad_out.new_empty((a.rows.n_items, a.grad_out.shape[1])))
def _noisy_projection_backward(
    grad_out: torch.Tensor, rows: ItemRows, noise: Noise
) -> torch.Tensor:
    """The gradient of the weight, [N, H]; the noise is made again, not stored."""
    from pdrec_fast.kernels.triton.denoising import noisy_projection as kernels

    if not len(noise.users):
        return grad_out.new_zeros((rows.n_items, grad_out.shape[1]))
    return kernels.weight_gradient(grad_out.contiguous(), contiguous(rows), contiguous(noise))


@_noisy_projection.gradient(of=["weight"], saves=["rows", "noise"])
def _(saved: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor]:
    return (_noisy_projection_backward(grad_out, saved.rows, saved.noise),)
