"""Operations on packed sequences: attention and dropout of a SASRec training batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.data import source, split
from bench.registry import Case, Floor, Growth, Implementation, call, operation
from pdrec_fast.data.sequences import pack
from pdrec_fast.ops.packed import DropoutKey
from pdrec_fast.ops.packed_attention import packed_attention
from pdrec_fast.ops.packed_dropout import packed_dropout

DROPOUT, MAX_LENGTH = 0.2, 200
_SIZES = {"users": 128, "items": 37_868, "width": 64}
_SMALL = {"users": 9, "items": 301, "width": 8}
_OTHER_NUMBERS = "other random numbers"


def _batch(users: int, items: int) -> pf.PackedSequences:
    return pack(split(users, items).train.histories(), MAX_LENGTH)


def _key(batch: pf.PackedSequences) -> DropoutKey:
    return DropoutKey(0, 0, torch.arange(len(batch)))


@operation(
    "packed_attention",
    "kernel",
    sizes=_SIZES,
    small=_SMALL,
    check_at_size=True,
    growth=(Growth("users", (64, 128, 256, 512)),),
)
def attention(users: int, items: int, width: int) -> Case:
    """One head with dropout of its weights, forward and backward."""
    batch = _batch(users, items)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, batch.n_tokens, 1, width, generator=generator)
    inputs = [x.requires_grad_() for x in qkv.clone().unbind()]
    gradient = torch.randn(batch.n_tokens, 1, width, generator=generator)
    padded = [batch.pad(x, MAX_LENGTH).transpose(1, 2).detach().requires_grad_() for x in qkv]
    padded_gradient = batch.pad(gradient, MAX_LENGTH).transpose(1, 2)
    mask = batch.pad(torch.ones(batch.n_tokens, dtype=torch.bool), MAX_LENGTH)
    visible = (mask[:, None, :] & torch.ones(MAX_LENGTH, MAX_LENGTH).tril().bool())[:, None]
    visible = visible | torch.eye(MAX_LENGTH, dtype=torch.bool)

    def package(impl: str) -> tuple[torch.Tensor, ...]:
        out = packed_attention(
            *inputs, batch.indptr, dropout=DROPOUT, key=_key(batch), stream=0, impl=impl
        )
        return out.detach(), *torch.autograd.grad(out, inputs, gradient)

    def by_padding() -> None:
        out = F.scaled_dot_product_attention(*padded, attn_mask=visible, dropout_p=DROPOUT)
        torch.autograd.grad(out, padded, padded_gradient)

    pairs = float((batch.lengths * (batch.lengths + 1) / 2).sum())
    return Case(
        {
            "cpp": call(package, "cpp"),
            "reference": call(package, "reference"),
            "padded SDPA": Implementation(
                lambda: by_padding, comparable=False, note=_OTHER_NUMBERS
            ),
        },
        reference="reference",
        # Two products forward, four backward.
        floor=Floor(bytes=4 * 7 * batch.n_tokens * width, flops=6 * 2 * width * pairs),
        rtol=1e-4,
        atol=1e-4,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )


@operation("packed_dropout", "kernel", sizes=_SIZES, small=_SMALL, check_at_size=True)
def dropout(users: int, items: int, width: int) -> Case:
    """Forward only: the gradient is the same operation."""
    batch = _batch(users, items)
    x = torch.randn(batch.n_tokens, width, generator=torch.Generator().manual_seed(0))
    arguments, key = (x, batch.indptr, DROPOUT), _key(batch)
    return Case(
        {
            "cpp": call(packed_dropout, *arguments, key=key, stream=0, impl="cpp"),
            "reference": call(packed_dropout, *arguments, key=key, stream=0, impl="reference"),
            "torch dropout": Implementation(
                call(F.dropout, x, DROPOUT).prepare, comparable=False, note=_OTHER_NUMBERS
            ),
        },
        reference="reference",
        floor=Floor(bytes=2 * x.nbytes),
        rtol=1e-6,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
