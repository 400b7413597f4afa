"""``attention_pooling`` in plain PyTorch, one sequence at a time."""

from __future__ import annotations

import torch


def attention_pooling(x: torch.Tensor, indptr: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """See ``ops.packed.attention_pooling``; the arguments are checked there."""
    out = torch.empty_like(queries)
    for sequence, tokens in enumerate(x.split(indptr.diff().tolist())):
        out[sequence] = (queries[sequence] @ tokens.T).softmax(1) @ tokens
    return out
