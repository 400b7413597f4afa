"""``sasrec_block`` by torch's layers, around an attention and a dropout that are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pdrec_fast.operands import SasrecBlock

NORM_EPS = 1e-8
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Drop = Callable[[torch.Tensor, int], torch.Tensor]


def sasrec_block(
    x: torch.Tensor, block: SasrecBlock, heads: int, attend: Attend, drop: Drop
) -> torch.Tensor:
    """See ``ops.packed.sasrec_block``; the arguments are checked there.

    Args:
        attend: of queries, keys and values [T, heads, d / heads], with dropout of the weights.
        drop: dropout of a tensor [T, d] by the numbers of a stream, counted from the attention's.
    """
    width = x.shape[1:]
    queries = F.layer_norm(x, width, block.query_gain, block.query_shift, NORM_EPS)
    attended = attend(*_projected(queries, x, block, heads)).flatten(1)
    attended = F.linear(attended, block.out_weight, block.out_bias)
    x = F.layer_norm(queries + attended, width, block.gain, block.shift, NORM_EPS)
    hidden = F.relu(drop(F.linear(x, block.hidden_weight, block.hidden_bias), 1))
    return x + drop(F.linear(hidden, block.last_weight, block.last_bias), 2)


def _projected(
    queries: torch.Tensor, x: torch.Tensor, block: SasrecBlock, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = x.shape[1]
    # One split, so that its gradient is one concatenation.
    q_weight, kv_weight = block.in_weight.split((width, 2 * width))
    q_bias, kv_bias = block.in_bias.split((width, 2 * width))
    q = F.linear(queries, q_weight, q_bias)
    k, v = F.linear(x, kv_weight, kv_bias).unflatten(1, (2, heads, -1)).unbind(1)
    return q.unflatten(1, (heads, -1)), k, v
