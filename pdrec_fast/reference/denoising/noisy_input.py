"""``noisy_input`` in float64 on dense matrices."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.operands import ItemRows, Noise
from pdrec_fast.random_keys import DROPOUT, NOISE
from pdrec_fast.reference.counter_rng import words


def noisy_input(rows: ItemRows, noise: Noise, out: torch.Tensor) -> torch.Tensor:
    """See ``ops.denoising.noisy_input``; the arguments are checked there, and on the host."""
    n_rows, n_items = out.shape
    key = noise.seed % 2**64, noise.epoch, noise.users.numpy()
    x0 = torch.zeros((n_rows, n_items), dtype=torch.float64)
    row_indices = torch.arange(n_rows).repeat_interleave(rows.indptr.diff())
    x0[row_indices, rows.items.long()] = rows.values.double()
    state = noise.signal.double().unsqueeze(1) * x0
    state += noise.sigma.double().unsqueeze(1) * standard_normals(*key, n_items, noise.first_block)
    if noise.dropout:
        keep = words(*key, n_items, DROPOUT, noise.first_block) >= noise.keep_from
        state = state.mul_(noise.keep_scale).masked_fill_(~keep, 0.0)
    return out.copy_(state)


def standard_normals(
    seed: int, epoch: int, users: npt.NDArray[np.int64], n_items: int, first_block: int
) -> torch.Tensor:
    """Float64 [B, n_items] by Box and Muller (1958), two normals from two words, of the blocks from
    ``first_block`` on."""
    n_words = -(-n_items // 4) * 4
    word = words(seed, epoch, users, n_words, NOISE, first_block)
    u = ((word >> 8).double() + 0.5) * 2**-24
    u = u.view(len(users), n_words // 2, 2)
    radius = (-2 * u[..., 0].log()).sqrt()
    angle = 2 * math.pi * u[..., 1]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :n_items]
