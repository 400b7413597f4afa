"""``noisy_input`` in float64 on dense matrices."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.random_keys import DROPOUT, NOISE
from pdrec_fast.reference.counter_rng import words


def standard_normals(
    seed: int, epoch: int, users: npt.NDArray[np.int64], n_items: int
) -> torch.Tensor:
    """Float64 [B, n_items] by Box and Muller (1958), two normals from two words."""
    n_words = -(-n_items // 4) * 4
    word = words(seed, epoch, users, n_words, NOISE)
    u = ((word >> 8).double() + 0.5) * 2**-24
    u = u.view(len(users), n_words // 2, 2)
    radius = (-2 * u[..., 0].log()).sqrt()
    angle = 2 * math.pi * u[..., 1]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :n_items]


def noisy_input(
    indptr: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    signal: npt.NDArray[np.float32],
    sigma: npt.NDArray[np.float32],
    dropout: float,
    keep_from: int,
    seed: int,
    epoch: int,
    users: npt.NDArray[np.int64],
    out: torch.Tensor,
) -> torch.Tensor:
    """See ``pdrec_fast.ops.denoising.noisy_input.noisy_input``; the arguments are checked there.

    An item is kept where its word of the dropout stream is at least ``keep_from``.
    """
    n_rows, n_items = out.shape
    rows = torch.from_numpy(np.repeat(np.arange(n_rows), np.diff(indptr)))
    x0 = torch.zeros((n_rows, n_items), dtype=torch.float64)
    x0[rows, torch.from_numpy(items.astype(np.int64))] = torch.from_numpy(values).double()
    state = torch.from_numpy(signal).double().unsqueeze(1) * x0
    noise = standard_normals(seed, epoch, users, n_items)
    state += torch.from_numpy(sigma).double().unsqueeze(1) * noise
    if dropout:
        keep = words(seed, epoch, users, n_items, DROPOUT) >= keep_from
        state = state.mul_(1 / (1 - dropout)).masked_fill_(~keep, 0.0)
    return out.copy_(state)
