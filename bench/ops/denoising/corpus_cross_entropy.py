"""The diffusion's multinomial loss over the whole corpus, forward and backward."""

from __future__ import annotations

from functools import partial

import torch

from bench.data import split
from bench.ops.denoising.corpus_error import layer, loss_flops
from bench.registry import Case, Floor, call, operation
from bench.target import target
from pdrec_fast.diffusion.inputs import interaction_rows
from pdrec_fast.ops.denoising.corpus_cross_entropy import corpus_cross_entropy

_SIZES = {"users": 256, "items": 37_868, "hidden": 256}


@operation(
    "corpus_cross_entropy",
    "kernel",
    sizes=_SIZES | {"precision": "bf16"},
    small={"users": 7, "items": 301, "hidden": 13, "precision": "fp32"},
    check_at_size=True,
)
def cross_entropy(users: int, items: int, hidden: int, precision: str) -> Case:
    """Losses of all rows and their gradients in hidden layer, item matrix and bias."""
    inputs = layer(users, items, hidden, precision)
    wide_inputs = [t.detach().float().requires_grad_() for t in inputs]
    histories = split(users, items).train.histories()
    rows = interaction_rows(histories, weighting="decay", w_min=0.0, w_max=1.0, decay=0.8)
    sparse = [t.to(target().device) for t in rows.coordinates()]

    def gradients(impl: str, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        losses = corpus_cross_entropy(*inputs, *sparse, impl=impl)
        return losses.detach(), *torch.autograd.grad(losses.sum(), inputs)

    wide = precision == "fp32"
    kernels = ["dense", *(["blocks"] if wide and not target().gpu else [])]
    return Case(
        {impl: call(partial(gradients, impl), inputs) for impl in kernels}
        | {"reference": call(partial(gradients, "reference"), wide_inputs)},
        reference="reference",
        floor=Floor(flops=loss_flops(users, items, hidden), dtype=precision),
        rtol=1e-4 if wide else 1.6e-2,
        atol=1e-6,
        by_norm=not wide,
    )
