"""HSTU's attention within the sequences of a training batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.data import source, split
from bench.dense import DTYPES
from bench.ops.packed._attention import attention_case
from bench.ops.packed._sequences import FIELDS, MAX_LENGTH
from bench.registry import Case, Growth, Implementation, operation
from bench.target import eager, target
from pdrec_fast.data.sequences import pack
from pdrec_fast.encoders.times import bucket_begins
from pdrec_fast.operands import AttentionBiases
from pdrec_fast.ops.packed.biased_attention import biased_attention
from pdrec_fast.reference.packed.biased_attention import score_bias

BUCKETS = 128


@operation(
    "biased_attention",
    "kernel",
    **FIELDS,
    growth=(Growth("users", (64, 128, 256, 512)),),
)
def attention(users: int, items: int, width: int, precision: str) -> Case:
    """Pointwise, one head, biases of distance and of time, forward and backward."""
    batch, device = (
        pack(split(users, items).train.histories(), MAX_LENGTH, times=True),
        target().device,
    )
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(4, batch.n_tokens, 1, width, generator=generator) * width**-0.25
    tensors = tensors.to(DTYPES[precision])
    biases = torch.randn(MAX_LENGTH + BUCKETS, generator=generator).split([MAX_LENGTH, BUCKETS])

    def package(impl: str, device: torch.device, dtype: torch.dtype) -> Callable:
        *inputs, gradient = tensors.to(device, dtype).unbind()
        leaves = [x.clone().requires_grad_() for x in (*inputs, *(b.to(device) for b in biases))]
        indptr, (times, begins) = batch.indptr.to(device), _times(batch, device)

        def run() -> tuple[torch.Tensor, ...]:
            given = AttentionBiases(*leaves[3:], times, begins)
            out = biased_attention(*leaves[:3], indptr, given, pointwise=True, impl=impl)
            return out.detach(), *torch.autograd.grad(out, leaves, gradient)

        return run

    return attention_case(
        package,
        batch,
        _padded(batch, tensors.to(device), [bias.to(device) for bias in biases]),
        width,
        precision,
        baseline="padded",
        data=source(users, items),
    )


def _times(batch: pf.PackedSequences, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    assert batch.times is not None
    return batch.times.to(device), bucket_begins(BUCKETS).to(device)


def _padded(
    batch: pf.PackedSequences, tensors: torch.Tensor, biases: list[torch.Tensor]
) -> dict[str, Implementation]:
    """All pairs of padded sequences in PyTorch, as HSTU was computed before this operation."""
    length = int(batch.host_lengths.max())
    *inputs, gradient = (batch.pad(x.cpu(), length).transpose(1, 2).to(x.device) for x in tensors)
    leaves = [x.requires_grad_() for x in (*inputs, *(bias.clone() for bias in biases))]
    times, begins = _times(batch, tensors.device)
    times = batch.pad(times.cpu(), length).to(times.device)
    # Padding stands before the items, so that a query sees as many keys as its place less that.
    mask = batch.pad(torch.ones(batch.n_tokens, dtype=torch.bool), length).to(tensors.device)
    n_keys = mask.cumsum(1).clamp_min(1)[:, None, :, None]
    seen = (mask[:, None, :] & mask.new_ones(length, length).tril())[:, None]

    def forward(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *of_pairs: torch.Tensor
    ) -> torch.Tensor:
        given = AttentionBiases(*of_pairs, times, begins)
        weights = F.silu(q @ k.mT + score_bias(given, times, length, q))
        return (weights.masked_fill(~seen, 0.0) / n_keys).to(v) @ v

    def run(forward: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        out = forward(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, gradient)

    def result() -> tuple[torch.Tensor, ...]:
        *of_tokens, of_distance, of_time = run(forward)
        unpadded = (batch.unpad(x.transpose(1, 2).cpu()) for x in of_tokens)
        return *unpadded, of_distance, of_time

    return eager("padded", run, forward, result=result)
