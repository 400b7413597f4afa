"""``hidden_chain`` in float64, user by user and step by step."""

from __future__ import annotations

from itertools import pairwise

import torch

from pdrec_fast.operands import Chain, ItemRows


def hidden_chain(rows: ItemRows, chain: Chain) -> torch.Tensor:
    """See ``ops.denoising.hidden_chain``; the arguments are checked there."""
    indptr, items, values, _ = rows
    item_in, *others, x0_coefficient, xt_coefficient = chain
    gram, bias, time = (tensor.double() for tensor in others)
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
