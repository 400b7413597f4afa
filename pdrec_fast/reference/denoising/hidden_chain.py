"""``hidden_chain`` in float64, user by user and step by step."""

from __future__ import annotations

from itertools import pairwise

import torch


def hidden_chain(
    indptr: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    item_in: torch.Tensor,
    gram: torch.Tensor,
    bias: torch.Tensor,
    time: torch.Tensor,
    x0_coefficient: torch.Tensor,
    xt_coefficient: torch.Tensor,
) -> torch.Tensor:
    """See ``pdrec_fast.ops.denoising.hidden_chain``; the arguments are checked there."""
    gram, bias, time = gram.double(), bias.double(), time.double()
    out = torch.empty(len(indptr) - 1, len(gram), dtype=torch.float64, device=item_in.device)
    for row, (begin, end) in enumerate(pairwise(indptr.tolist())):
        projection = values[begin:end].double() @ item_in[items[begin:end].long()].double()
        # The state is a x_0 + item_out g + s item_bias.
        a, s = 1.0, 0.0
        g = torch.zeros_like(projection)
        for t in reversed(range(len(time))):
            h = torch.tanh(a * projection + g @ gram + s * bias + time[t])
            c1, c2 = float(x0_coefficient[t]), float(xt_coefficient[t])
            g = c1 * h + c2 * g
            a, s = c2 * a, c1 + c2 * s
        out[row] = h
    return out.to(item_in.dtype)
