"""The last block's attention of users' last tokens."""

from __future__ import annotations

import torch

from bench.data import source
from bench.ops.packed._sequences import batch_of
from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.ops.packed.attention_pooling import attention_pooling


@operation(
    "attention_pooling",
    "kernel",
    sizes={"users": 1024, "items": 37_868, "width": 64},
    small={"users": 5, "items": 301, "width": 8},
    check_at_size=True,
)
def pooling(users: int, items: int, width: int) -> Case:
    """A block of an evaluation."""
    batch, generator = batch_of(users, items), torch.Generator().manual_seed(0)
    x = torch.randn(batch.n_tokens, width, generator=generator)
    queries = torch.randn(len(batch), 1, width, generator=generator) / width**0.5

    def padded() -> torch.Tensor:
        length = int(batch.lengths[0])
        tokens = batch.pad(x, length)
        inside = torch.arange(length) >= length - batch.lengths[:, None]
        scores = (queries @ tokens.mT).masked_fill(~inside[:, None], -torch.inf)
        return scores.softmax(2) @ tokens

    return Case(
        {
            impl: call(attention_pooling, x, batch.indptr, queries, impl=impl)
            for impl in ("cpp", "reference")
        }
        | {"padded": Implementation(lambda: padded)},
        reference="reference",
        baseline="padded",
        floor=Floor(bytes=x.nbytes + 2 * queries.nbytes),
        rtol=1e-5,
        atol=1e-5,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
