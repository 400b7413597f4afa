"""The reverse process of diffusion without leaving the hidden layer, from sparse histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.ops.arguments import check_tensors, csr, per_row
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import hidden_chain as reference

# A program of the kernel takes 64 rows through all steps. Fewer than this many rows leave most of a
# GPU's multiprocessors idle, which wide layers feel more than the launches that the kernel saves.
_MANY_ROWS, _WIDE_LAYER = 4096, 256

Values = npt.NDArray[Any] | torch.Tensor


@torch.no_grad()
def hidden_chain(
    indptr: Values,
    items: Values,
    values: Values,
    item_in: torch.Tensor,
    gram: torch.Tensor,
    bias: torch.Tensor,
    time: torch.Tensor,
    x0_coefficient: torch.Tensor,
    xt_coefficient: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """h of step 0 of the reverse chain that starts from x_0, without gradient.

    A step is ``x_{t-1} = c1_t x̂_0 + c2_t x_t`` with ``x̂_0 = item_out h_t + item_bias`` and ``h_t =
    tanh(x_t item_in + time_t)``. Every state is ``x_t = a x_0 + item_out g + s item_bias``, hence
    ``h_t = tanh(a (x_0 item_in) + g gram + s bias + time_t)``; then g becomes ``c1_t h_t + c2_t
    g``, a ``c2_t a`` and s ``c1_t + c2_t s``. At first a is 1, and g and s are 0.

    Args:
        indptr: int64 [B + 1]; row b of x_0 has ``items[indptr[b]:indptr[b + 1]]``.
        items: int32 [n]; values: float32 [n], x_0 at those items. The three are checked and copied
            to the device of ``item_in``; where all are tensors on it already, in shape and dtype
            only: to look at the numbers would be to wait for the GPU.
        item_in: [N, H], float32 or bfloat16 (float64 for ``"torch"`` and ``"reference"``).
        gram: ``item_out' item_in`` [H, H], of the same dtype.
        bias: ``item_bias' item_in`` [H]; time: [T, H], T at least 1.
        x0_coefficient, xt_coefficient: [T], c1 and c2; taken in float64.
        impl: ``"auto"``; ``"triton"``: one kernel (a GPU; a CPU's interpreter, for tests);
            ``"torch"``: a bag of embeddings and a product for every step; ``"reference"``: in
            float64 by loops, rounded at the end. On a GPU ``"auto"`` takes ``"triton"``, but
            ``"torch"`` for less than 4,096 rows where H exceeds 256.

    Returns:
        [B, H], of the dtype of ``item_in``.

    Raises:
        ValueError: an argument is out of its range, or shapes or dtypes do not fit.
        BackendError: the named implementation cannot run here.
    """
    chosen = choose("hidden_chain", impl, _offered(item_in, len(indptr) - 1))
    _check_layer(item_in, gram, bias, time, x0_coefficient, xt_coefficient)
    rows = _sparse_rows(indptr, items, values, len(item_in), item_in.device)
    coefficients = [
        coefficient.to(item_in.device, torch.float64)
        for coefficient in (x0_coefficient, xt_coefficient)
    ]
    arguments = *rows, item_in, gram, bias, time, *coefficients
    if chosen == "triton":
        return _hidden_chain(*arguments)
    if chosen == "reference":
        return reference.hidden_chain(*arguments)
    return _by_products(*arguments)


def _offered(item_in: torch.Tensor, n_rows: int) -> dict[str, str | None]:
    wide = None
    if item_in.dtype not in (torch.float32, torch.bfloat16):
        wide = f"it takes float32 or bfloat16 weights, got {item_in.dtype}"
    on_triton = {"triton": wide or triton_problem(item_in.device.type)}
    others: dict[str, str | None] = {"torch": None, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    idle = n_rows < _MANY_ROWS and item_in.shape[-1] > _WIDE_LAYER
    return others | on_triton if item_in.device.type == "cpu" or idle else on_triton | others


def _check_layer(item_in: torch.Tensor, gram: torch.Tensor, *others: torch.Tensor) -> None:
    if item_in.ndim != 2 or not item_in.is_floating_point() or 0 in item_in.shape:
        raise ValueError(
            "item_in must be a floating tensor of shape [N, H], N and H at least 1, got "
            f"{item_in.dtype} of shape {tuple(item_in.shape)}"
        )
    hidden, steps = item_in.shape[1], len(others[1]) if others[1].ndim else 0
    if steps < 1:
        raise ValueError(f"time must have a row for every step, got {tuple(others[1].shape)}")
    if gram.dtype != item_in.dtype:
        raise ValueError(f"gram must be {item_in.dtype}, as item_in is, got {gram.dtype}")
    names = "gram", "bias", "time", "x0_coefficient", "xt_coefficient"
    shapes = (hidden, hidden), (hidden,), (steps, hidden), (steps,), (steps,)
    for name, tensor, shape in zip(names, (gram, *others), shapes, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def _sparse_rows(
    indptr: Values, items: Values, values: Values, n_items: int, device: torch.device
) -> list[torch.Tensor]:
    arrays = [indptr, items, values]
    dtypes = torch.int64, torch.int32, torch.float32
    lengths = max(len(indptr), 1), len(items), len(items)
    tensors = [array for array in arrays if isinstance(array, torch.Tensor)]
    if len(tensors) < 3 or any(tensor.device != device for tensor in tensors):
        indptr, items = csr(indptr, items, lengths[0] - 1, n_items)  # type: ignore[arg-type]
        values = per_row("values", values, np.float32, len(items))
        return [torch.from_numpy(array).to(device) for array in (indptr, items, values)]
    check_tensors(("indptr", "items", "values"), tensors, dtypes, lengths)
    return tensors


def _by_products(
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    item_in: torch.Tensor,
    gram: torch.Tensor,
    bias: torch.Tensor,
    time: torch.Tensor,
    x0_coefficient: torch.Tensor,
    xt_coefficient: torch.Tensor,
) -> torch.Tensor:
    projection = torch.nn.functional.embedding_bag(
        items.long(),
        item_in,
        indptr[:-1],
        mode="sum",
        per_sample_weights=values.to(item_in.dtype),
    )
    a, s = torch.ones_like(x0_coefficient[0]), torch.zeros_like(x0_coefficient[0])
    h = g = torch.zeros_like(projection)
    for t in range(len(time) - 1, -1, -1):
        offset = time[t] + s * bias
        h = torch.tanh(torch.addmm((a * projection + offset).to(gram.dtype), g, gram))
        c1, c2 = x0_coefficient[t], xt_coefficient[t]
        g = c1 * h + c2 * g
        a, s = c2 * a, c1 + c2 * s
    return h


@torch.library.custom_op("pdrec_fast::hidden_chain", mutates_args=())
def _hidden_chain(
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    item_in: torch.Tensor,
    gram: torch.Tensor,
    bias: torch.Tensor,
    time: torch.Tensor,
    x0_coefficient: torch.Tensor,
    xt_coefficient: torch.Tensor,
) -> torch.Tensor:
    from pdrec_fast.kernels.triton.denoising import hidden_chain as kernels

    weights = item_in, gram, bias, time, x0_coefficient, xt_coefficient
    arguments = [tensor.contiguous() for tensor in (indptr, items, values, *weights)]
    return kernels.hidden_chain(*arguments)


@_hidden_chain.register_fake
def _(
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    item_in: torch.Tensor,
    gram: torch.Tensor,
    bias: torch.Tensor,
    time: torch.Tensor,
    x0_coefficient: torch.Tensor,
    xt_coefficient: torch.Tensor,
) -> torch.Tensor:
    return item_in.new_empty((len(indptr) - 1, item_in.shape[1]))
