"""Operations on packed sequences: attention, dropout and recurrence of a training batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.data import source, split
from bench.dense import DTYPES
from bench.registry import Case, Floor, Growth, Implementation, call, operation
from bench.target import eager, target
from pdrec_fast.data.sequences import pack
from pdrec_fast.encoders.gru4rec import time_order
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.ops.packed.packed_gru import packed_gru

DROPOUT, MAX_LENGTH = 0.2, 200
_SIZES = {"users": 128, "items": 37_868, "width": 64, "precision": "fp32"}
_GPU_SIZES = (_SIZES | {"users": 7_996}, _SIZES, _SIZES | {"users": 7_996, "precision": "bf16"})
_SMALL = {"users": 5, "items": 301, "width": 8, "precision": "fp32"}
_OTHER_NUMBERS = "other random numbers"


def _batch(users: int, items: int) -> pf.PackedSequences:
    return pack(split(users, items).train.histories(), MAX_LENGTH)


def _rows(batch: pf.PackedSequences, device: torch.device) -> tuple[torch.Tensor, DropoutKey]:
    """(indptr, key) on ``device``."""
    return batch.indptr.to(device), DropoutKey(0, 0, torch.arange(len(batch), device=device))


@operation(
    "packed_attention",
    "kernel",
    sizes=_SIZES,
    gpu_sizes=_GPU_SIZES,
    small=_SMALL,
    check_at_size=True,
    growth=(Growth("users", (64, 128, 256, 512)),),
)
def attention(users: int, items: int, width: int, precision: str) -> Case:
    """One head with dropout of its weights, forward and backward."""
    batch, device = _batch(users, items), target().device
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(4, batch.n_tokens, 1, width, generator=generator).to(DTYPES[precision])

    def package(impl: str, device: torch.device, dtype: torch.dtype) -> Callable:
        *inputs, gradient = tensors.to(device, dtype).unbind()
        inputs = [x.clone().requires_grad_() for x in inputs]
        indptr, key = _rows(batch, device)

        def run() -> tuple[torch.Tensor, ...]:
            out = packed_attention(*inputs, indptr, dropout=DROPOUT, key=key, stream=0, impl=impl)
            return out.detach(), *torch.autograd.grad(out, inputs, gradient)

        return run

    pairs = float((batch.lengths * (batch.lengths + 1) / 2).sum())
    cpu = torch.device("cpu")
    return Case(
        {
            impl: Implementation(partial(package, impl, device, DTYPES[precision]))
            for impl in target().kernels
        }
        | {
            "reference": Implementation(
                partial(package, "reference", cpu, torch.float32), timed=not target().gpu
            )
        }
        | _padded(batch, tensors.to(device)),
        reference="reference",
        baseline="padded SDPA" if target().gpu else "",
        # Two products forward, four backward.
        floor=Floor(
            bytes=tensors.itemsize * 7 * batch.n_tokens * width,
            flops=6 * 2 * width * pairs,
            dtype=precision,
        ),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        atol=1e-4,
        by_norm=precision != "fp32",
        sizes={"tokens": batch.n_tokens},
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
        note=_OTHER_NUMBERS,
    )


@operation(
    "packed_dropout",
    "kernel",
    sizes=_SIZES,
    gpu_sizes=_GPU_SIZES,
    small=_SMALL,
    check_at_size=True,
)
def dropout(users: int, items: int, width: int, precision: str) -> Case:
    """Forward only: the gradient is the same operation."""
    batch, device = _batch(users, items), target().device
    x = torch.randn(batch.n_tokens, width, generator=torch.Generator().manual_seed(0))
    x = x.to(DTYPES[precision])

    def package(impl: str, device: torch.device) -> Implementation:
        indptr, key = _rows(batch, device)
        return call(packed_dropout, x.to(device), indptr, DROPOUT, key=key, stream=0, impl=impl)

    reference = package("reference", torch.device("cpu")).prepare
    here = x.to(device)
    return Case(
        {impl: package(impl, device) for impl in target().kernels}
        | {"reference": Implementation(reference, timed=not target().gpu)}
        | eager(
            "torch dropout",
            lambda forward: forward(here, DROPOUT),
            F.dropout,
            comparable=False,
            note=_OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch dropout" if target().gpu else "",
        floor=Floor(bytes=2 * x.nbytes),
        rtol=1e-6 if precision == "fp32" else 1.6e-2,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )


@operation(
    "packed_gru",
    "kernel",
    sizes={"users": 128, "items": 37_868, "width": 64},
    small={"users": 5, "items": 301, "width": 8},
    check_at_size=True,
)
def gru(users: int, items: int, width: int) -> Case:
    """One layer, forward and backward."""
    batch = _batch(users, items)
    sizes = torch.from_numpy(time_order(batch.host_lengths)[0])
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, batch.n_tokens, width, generator=generator)
    shapes = (3 * width, width), (3 * width, width), (3 * width,), (3 * width,)
    parameters = [width**-0.5 * torch.randn(shape, generator=generator) for shape in shapes]

    def package(impl: str) -> Callable:
        inputs = [tensor.clone().requires_grad_() for tensor in (x, *parameters)]

        def run() -> tuple[torch.Tensor, ...]:
            out = packed_gru(inputs[0], sizes, *inputs[1:], impl=impl)
            return out.detach(), *torch.autograd.grad(out, inputs, gradient)

        return run

    return Case(
        {impl: Implementation(partial(package, impl)) for impl in ("steps", "reference")},
        reference="reference",
        # Input and state through three gates, and as much twice for the gradients.
        floor=Floor(bytes=4 * x.nbytes, flops=3 * 2 * 2 * 3 * width**2 * batch.n_tokens),
        rtol=1e-4,
        atol=1e-4,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
