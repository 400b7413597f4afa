"""The reverse process of diffusion without leaving the hidden layer, from sparse histories."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.operands import Chain, ItemRows, contiguous
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._rows import Values, rows_on
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import hidden_chain as reference

# A program of the kernel takes 64 rows through all steps. Fewer than this many rows leave most of a
# GPU's multiprocessors idle, which wide layers feel more than the launches that the kernel saves.
_MANY_ROWS, _WIDE_LAYER = 4096, 256


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
    """``for t in reversed(range(T)): h = tanh(x @ item_in + time[t]); x = c1[t] * (h @ item_out.T +
    item_bias) + c2[t] * x``, without gradient and without x: h of step 0 of the reverse process.

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
    layer = item_in, gram, bias, time
    _check_shapes(Chain(*layer, x0_coefficient, xt_coefficient))
    rows = ItemRows._make((indptr, items, values, len(item_in)))
    rows = rows_on(item_in.device, rows)
    coefficients = x0_coefficient, xt_coefficient
    chain = Chain(*layer, *(c.to(item_in.device, torch.float64) for c in coefficients))
    if chosen == "triton":
        return _hidden_chain(rows, chain)
    if chosen == "reference":
        return reference.hidden_chain(rows, chain)
    return _by_products(rows, chain)


def _offered(item_in: torch.Tensor, n_rows: int) -> dict[str, str | None]:
    wide = None
    if item_in.dtype not in (torch.float32, torch.bfloat16):
        wide = f"it takes float32 or bfloat16 weights, got {item_in.dtype}"
    on_triton = {"triton": wide or triton_problem(item_in.device.type)}
    others: dict[str, str | None] = {"torch": None, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    idle = n_rows < _MANY_ROWS and item_in.shape[-1] > _WIDE_LAYER
    return others | on_triton if item_in.device.type == "cpu" or idle else on_triton | others


def _check_shapes(chain: Chain) -> None:
    item_in, gram, time = chain.item_in, chain.gram, chain.time
    if item_in.ndim != 2 or not item_in.is_floating_point() or 0 in item_in.shape:
        raise ValueError(
            "item_in must be a floating tensor of shape [N, H], N and H at least 1, got "
            f"{item_in.dtype} of shape {tuple(item_in.shape)}"
        )
    hidden, steps = item_in.shape[1], len(time) if time.ndim else 0
    if steps < 1:
        raise ValueError(f"time must have a row for every step, got {tuple(time.shape)}")
    if gram.dtype != item_in.dtype:
        raise ValueError(f"gram must be {item_in.dtype}, as item_in is, got {gram.dtype}")
    shapes = (hidden, hidden), (hidden,), (steps, hidden), (steps,), (steps,)
    for name, tensor, shape in zip(chain._fields[1:], chain[1:], shapes, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def _by_products(rows: ItemRows, chain: Chain) -> torch.Tensor:
    projection = torch.nn.functional.embedding_bag(
        rows.items.long(),
        chain.item_in,
        rows.indptr[:-1],
        mode="sum",
        per_sample_weights=rows.values.to(chain.item_in.dtype),
    )
    one = torch.ones_like(chain.x0_coefficient[0])
    a, s = one, torch.zeros_like(one)
    h = g = torch.zeros_like(projection)
    for t in range(len(chain.time) - 1, -1, -1):
        offset = chain.time[t] + s * chain.bias
        h = torch.tanh(torch.addmm((a * projection + offset).to(chain.gram.dtype), g, chain.gram))
        c1, c2 = chain.x0_coefficient[t], chain.xt_coefficient[t]
        g = c1 * h + c2 * g
        a, s = c2 * a, c1 + c2 * s
    return h


@operation(fake=lambda a: a.chain.item_in.new_empty((len(a.rows.indptr) - 1, len(a.chain.gram))))
def _hidden_chain(rows: ItemRows, chain: Chain) -> torch.Tensor:
    from pdrec_fast.kernels.triton.denoising import hidden_chain as kernels

    return kernels.hidden_chain(contiguous(rows), contiguous(chain))
