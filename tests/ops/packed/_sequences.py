"""What tests of packed sequences share."""

import numpy as np
import torch

from pdrec_fast.encoders.times import bucket_begins
from pdrec_fast.operands import AttentionBiases
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.biased_attention import biased_attention


def offsets(lengths, device="cpu"):
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()], device=device)


def key_for(lengths, seed=5, epoch=2):
    return DropoutKey(seed, epoch, torch.arange(len(lengths)) * 7 + 3)


def high_key_for(lengths, device, seed=2**64 - 3):
    """Of numbers that need all their bits."""
    users = 2**32 - 1 - 7 * torch.arange(len(lengths), device=device)
    return DropoutKey(seed, 2**32 - 2, users)


def vectors_for(lengths, heads, e, dtype=torch.float32):
    """q, k and v as a model has them: parts of one tensor."""
    generator = torch.Generator().manual_seed(heads * 1000 + e)
    joint = torch.randn(sum(lengths), 3, heads, e, generator=generator, dtype=torch.float64)
    return [part.detach().requires_grad_() for part in joint.to(dtype).unbind(1)]


def times_for(lengths, order="ascending"):
    """float64 [T], those of each sequence in this order."""
    rng = np.random.default_rng(len(lengths))
    rows = [np.sort(np.floor(10 ** rng.uniform(0, 9, length))) for length in lengths]
    if order == "descending":
        rows = [row[::-1] for row in rows]
    elif order == "equal":
        rows = [np.full_like(row, 1.7e9) for row in rows]
    elif order == "huge":
        rows = [rng.choice([0.0, 2.0**62, -(2.0**62)], len(row)) for row in rows]
    elif order == "any":
        rows = [rng.permutation(row) for row in rows]
    return torch.from_numpy(np.concatenate([np.zeros(0), *rows]))


def biases_for(lengths, n_distances=20, n_buckets=40, order="ascending", dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    distance, time = (
        torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)
        for n in (n_distances, n_buckets)
    )
    return AttentionBiases(distance, time, times_for(lengths, order), bucket_begins(n_buckets))


def run_biased(vectors, lengths, biases, **keywords):
    """Output and gradients of q, k, v and the biases that are there, for a fixed direction."""
    given = [x for x in biases[:2] if x is not None]
    leaves = [x.detach().requires_grad_() for x in (*vectors, *given)]
    if given:
        biases = biases._replace(distance=leaves[3], time=leaves[4])
    out = biased_attention(*leaves[:3], offsets(lengths), biases, **keywords)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]
