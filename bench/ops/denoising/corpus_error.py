"""The diffusion's loss over the whole corpus, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.data import split
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation, call, operation
from bench.target import eager, target
from pdrec_fast.diffusion.inputs import interaction_rows
from pdrec_fast.operands import SparseTarget
from pdrec_fast.ops.denoising.corpus_error import corpus_error
from pdrec_fast.reference.denoising.corpus_error import corpus_error as plain_error

_SIZES = {"users": 400, "items": 37_868, "hidden": 1_000}


@operation(
    "corpus_error",
    "kernel",
    sizes=_SIZES | {"precision": "fp32"},
    gpu_sizes=tuple(_SIZES | {"precision": precision} for precision in ("bf16", "fp32")),
    small={"users": 7, "items": 301, "hidden": 13, "precision": "fp32"},
    check_at_size=True,
)
def error(users: int, items: int, hidden: int, precision: str) -> Case:
    """Errors of all rows and their gradients in hidden layer, item matrix and bias."""
    inputs = layer(users, items, hidden, precision)
    wide_inputs = [t.detach().float().requires_grad_() for t in inputs]
    histories = split(users, items).train.histories()
    rows = interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)
    sparse = [t.to(target().device) for t in rows.coordinates()]

    def gradients(
        forward: Callable[..., torch.Tensor], inputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        errors = forward(*inputs, *sparse)
        return errors.detach(), *torch.autograd.grad(errors.sum(), inputs)

    def plain(*arguments: torch.Tensor) -> torch.Tensor:
        return plain_error(*arguments[:3], SparseTarget(*arguments[3:]))

    def package(impl: str) -> Callable[..., torch.Tensor]:
        return partial(corpus_error, impl=impl)

    wide, on_gpu = precision == "fp32", target().gpu
    kernels = ["auto", "dense", *(["gram"] if wide else []), *(["triton"] if on_gpu else [])]
    reference = call(gradients, package("reference"), wide_inputs)
    return Case(
        {impl: call(gradients, package(impl), inputs) for impl in kernels}
        | {"reference": Implementation(reference.prepare, timed=not on_gpu)}
        | (eager("torch eager", lambda f: gradients(f, inputs), plain) if on_gpu else {}),
        reference="reference",
        baseline="torch eager" if on_gpu else "",
        floor=Floor(flops=loss_flops(users, items, hidden), dtype=precision),
        rtol=1e-4 if wide else 1.6e-2,
        atol=1e-6,
        by_norm=not wide,
    )


def layer(users: int, items: int, hidden: int, precision: str) -> list[torch.Tensor]:
    """The last hidden layer, item matrix and bias, with gradients, on the target."""
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(users, hidden, generator=generator) * 2 - 1
    item_out = torch.randn(items, hidden, generator=generator) * (2 / (items + hidden)) ** 0.5
    device, dtype = target().device, DTYPES[precision]
    return [t.to(device, dtype).requires_grad_() for t in (h, item_out, torch.zeros(items))]


def loss_flops(users: int, items: int, hidden: int) -> float:
    """The prediction and its gradients in both factors; or, where users outnumber the hidden units,
    Gram matrices: of the item matrix for errors and users, of the users for the item matrix."""
    return 2 * items * hidden * min(3 * users, 2 * hidden)
