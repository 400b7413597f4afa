"""The denoiser's first layer on the noised input of diffusion training, from sparse histories."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.ops.arguments import signed_seed
from pdrec_fast.ops.denoising.noisy_input import device_arguments, noise_arguments, noisy_input
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import noisy_projection as reference

Values = npt.NDArray[Any] | torch.Tensor


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
    impl: str = "auto",
) -> torch.Tensor:
    """``x_t @ weight`` with ``x_t = keep / (1 - p) * (signal * x0 + sigma * eps)``.

    x_t is what ``noisy_input`` makes of the same arguments; ``"triton"`` makes it within the
    product, in the gradient too, and never stores its [B, N] numbers. Differentiable, once, in
    ``weight``. Under autocast to bfloat16 the product takes the weight in bfloat16.

    Args:
        indptr, items, values, signal, sigma, dropout, seed, epoch, users: see ``noisy_input``.
            They are checked and copied to the weight's device; where all the arrays are tensors on
            it already, ``"triton"`` checks shapes and dtypes only, without waiting for the GPU.
        weight: [N, H], float32 or bfloat16 (float64 for the reference). x_t is rounded to its
            dtype; sums are in float32.
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
    rows = indptr, items, values, len(weight), signal, sigma, dropout
    keys: dict[str, Any] = {"seed": seed, "epoch": epoch, "users": users}
    if chosen == "reference":
        arrays, users, keep_from = noise_arguments(*rows, **keys)
        return reference.noisy_projection(*arrays, weight, dropout, keep_from, seed, epoch, users)
    weight = _as_autocast(weight)
    if chosen == "materialized":
        return noisy_input(*rows, **keys, dtype=weight.dtype, device=weight.device) @ weight
    tensors = device_arguments(*rows, **keys, device=weight.device)
    return _noisy_projection(weight, *tensors, float(dropout), signed_seed(seed), epoch)


def _offered(weight: torch.Tensor) -> dict[str, str | None]:
    wide = None
    if weight.dtype not in (torch.float32, torch.bfloat16):
        wide = f"it takes a float32 or bfloat16 weight, got {weight.dtype}"
    on_triton = {"triton": wide or triton_problem(weight.device.type)}
    others: dict[str, str | None] = {"materialized": wide, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    return others | on_triton if weight.device.type == "cpu" else on_triton | others


def _as_autocast(weight: torch.Tensor) -> torch.Tensor:
    device = weight.device.type
    available = torch.amp.is_autocast_available(device)
    if (
        available
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
    ):
        return weight.bfloat16()
    return weight


@torch.library.custom_op("pdrec_fast::noisy_projection", mutates_args=())
def _noisy_projection(
    weight: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    dropout: float,
    seed: int,
    epoch: int,
) -> torch.Tensor:
    from pdrec_fast.kernels.triton.denoising import noisy_projection as kernels

    if not len(users):
        return weight.new_empty((0, weight.shape[1]))
    arrays = [array.contiguous() for array in (indptr, items, values, signal, sigma, users)]
    key = kernels.RandomKey(dropout, seed, epoch)
    return kernels.noisy_projection(key, weight.contiguous(), *arrays)


@_noisy_projection.register_fake
def _(
    weight: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    dropout: float,
    seed: int,
    epoch: int,
) -> torch.Tensor:
    return weight.new_empty((len(users), weight.shape[1]))


@torch.library.custom_op("pdrec_fast::noisy_projection_backward", mutates_args=())
def _weight_gradient(
    of_out: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    n_items: int,
    dropout: float,
    seed: int,
    epoch: int,
) -> torch.Tensor:
    """[N, H]; the noise is made again, not stored."""
    from pdrec_fast.kernels.triton.denoising import noisy_projection as kernels

    if not len(users):
        return of_out.new_zeros((n_items, of_out.shape[1]))
    arrays = [array.contiguous() for array in (indptr, items, values, signal, sigma, users)]
    key = kernels.RandomKey(dropout, seed, epoch)
    return kernels.weight_gradient(key, n_items, of_out.contiguous(), *arrays)


@_weight_gradient.register_fake
def _(
    of_out: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    users: torch.Tensor,
    n_items: int,
    dropout: float,
    seed: int,
    epoch: int,
) -> torch.Tensor:
    return of_out.new_empty((n_items, of_out.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    weight, *arrays, dropout, seed, epoch = inputs
    ctx.settings = len(weight), dropout, seed, epoch
    ctx.save_for_backward(*arrays)


def _backward(ctx: Any, of_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    of_weight = None
    if ctx.needs_input_grad[0]:
        of_weight = _weight_gradient(of_out.contiguous(), *ctx.saved_tensors, *ctx.settings)
    return of_weight, *(None,) * 9


_noisy_projection.register_autograd(_backward, setup_context=_setup_context)
