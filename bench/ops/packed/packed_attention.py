"""Causal attention within the sequences of a training batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.data import source
from bench.dense import DTYPES
from bench.ops.packed._attention import attention_case
from bench.ops.packed._sequences import (
    DROPOUT,
    FIELDS,
    MAX_LENGTH,
    OTHER_NUMBERS,
    batch_of,
    indptr_and_key,
)
from bench.registry import Case, Growth, Implementation, operation
from bench.target import eager, target
from pdrec_fast.ops.packed.packed_attention import packed_attention


@operation(
    "packed_attention",
    "kernel",
    **FIELDS,
    growth=(Growth("users", (64, 128, 256, 512)),),
)
def attention(users: int, items: int, width: int, precision: str) -> Case:
    """One head with dropout of its weights, forward and backward."""
    batch, device = batch_of(users, items), target().device
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(4, batch.n_tokens, 1, width, generator=generator).to(DTYPES[precision])

    def package(impl: str, device: torch.device, dtype: torch.dtype) -> Callable:
        *inputs, gradient = tensors.to(device, dtype).unbind()
        inputs = [x.clone().requires_grad_() for x in inputs]
        indptr, key = indptr_and_key(batch, device)

        def run() -> tuple[torch.Tensor, ...]:
            out = packed_attention(*inputs, indptr, dropout=DROPOUT, key=key, stream=0, impl=impl)
            return out.detach(), *torch.autograd.grad(out, inputs, gradient)

        return run

    return attention_case(
        package,
        batch,
        _padded(batch, tensors.to(device)),
        width,
        precision,
        baseline="padded SDPA" if target().gpu else "",
        data=source(users, items),
    )


def _padded(batch: pf.PackedSequences, tensors: torch.Tensor) -> dict[str, Implementation]:
    """torch's own attention over padded sequences."""
    padded = [
        batch.pad(x.cpu(), MAX_LENGTH).transpose(1, 2).to(x.device).requires_grad_()
        for x in tensors
    ]
    *inputs, gradient = padded
    gradient = gradient.detach()
    mask = batch.pad(torch.ones(batch.n_tokens, dtype=torch.bool), MAX_LENGTH).to(tensors.device)
    square = mask.new_ones(MAX_LENGTH, MAX_LENGTH)
    visible = (mask[:, None, :] & square.tril())[:, None]
    visible = visible | torch.eye(MAX_LENGTH, dtype=torch.bool, device=tensors.device)

    def run(forward: Callable[..., torch.Tensor]) -> None:
        torch.autograd.grad(forward(*inputs, visible, DROPOUT), inputs, gradient)

    return eager(
        "padded SDPA",
        run,
        F.scaled_dot_product_attention,
        comparable=False,
        note=OTHER_NUMBERS,
    )
