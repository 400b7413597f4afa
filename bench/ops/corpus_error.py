"""The diffusion's loss over the whole corpus, forward and backward."""

from __future__ import annotations

import torch

from bench.data import split
from bench.registry import Case, Floor, call, operation
from pdrec_fast.diffusion.inputs import interaction_rows
from pdrec_fast.ops.corpus_error import corpus_error


@operation(
    "corpus_error",
    "kernel",
    sizes={"users": 400, "items": 37_868, "hidden": 1_000},
    small={"users": 7, "items": 301, "hidden": 13},
    check_at_size=True,
)
def error(users: int, items: int, hidden: int) -> Case:
    """Errors of all rows and their gradients in hidden layer, item matrix and bias."""
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(users, hidden, generator=generator) * 2 - 1
    item_out = torch.randn(items, hidden, generator=generator) * (2 / (items + hidden)) ** 0.5
    inputs = [t.requires_grad_() for t in (h, item_out, torch.zeros(items))]
    histories = split(users, items).train.histories()
    rows = interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)
    target = rows.coordinates()

    def forward_backward(impl: str) -> tuple[torch.Tensor, ...]:
        errors = corpus_error(*inputs, *target, impl=impl)
        return errors.detach(), *torch.autograd.grad(errors.sum(), inputs)

    return Case(
        {impl: call(forward_backward, impl) for impl in ("auto", "dense", "gram", "reference")},
        reference="reference",
        floor=Floor(flops=loss_flops(users, items, hidden)),
        rtol=1e-4,
        atol=1e-6,
    )


def loss_flops(users: int, items: int, hidden: int) -> float:
    """The prediction and its gradients in both factors; or, where users outnumber the hidden units,
    Gram matrices: of the item matrix for errors and users, of the users for the item matrix."""
    return 2 * items * hidden * min(3 * users, 2 * hidden)
