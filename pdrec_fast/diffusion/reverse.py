"""The reverse process: from a user's interactions to preferences over every item (paper, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.inputs import SparseRows, projected
from pdrec_fast.diffusion.schedule import NoiseSchedule
from pdrec_fast.ops.denoising.hidden_chain import hidden_chain
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.random_keys import FORWARD_EPOCH, SAMPLING_EPOCH


@dataclass(frozen=True)
class HiddenChain:
    """The part of the hidden-layer chain that does not depend on the user; see ``prepare``."""

    item_in: torch.Tensor  # [N, H]
    gram: torch.Tensor  # item_out' item_in [H, H]
    bias: torch.Tensor  # item_bias' item_in [H]
    time: torch.Tensor  # e(t) W_time + b_in for every step [T, H]
    x0_coefficient: torch.Tensor  # [T]
    xt_coefficient: torch.Tensor  # [T]

    @classmethod
    @torch.no_grad()
    def prepare(cls, denoiser: Denoiser, schedule: NoiseSchedule) -> HiddenChain:
        """Sums over items that every user shares: 2 N H^2 operations, once per fitted model."""
        device = denoiser.item_in.device
        return cls(
            denoiser.item_in.detach(),
            denoiser.item_out.T @ denoiser.item_in,
            denoiser.item_bias @ denoiser.item_in,
            denoiser.time_term(torch.arange(schedule.steps, device=device)),
            schedule.x0_coefficient.to(device),
            schedule.xt_coefficient.to(device),
        )

    def run(self, x0: SparseRows) -> torch.Tensor:
        """All T steps without leaving the hidden layer: T * B * H^2 operations in place of
        T * B * N * H; see ``ops.hidden_chain``.

        Since step 0 takes the predicted x_0 whole, the preferences are ``item_out h + item_bias``
        for the h returned.

        Returns:
            h of step 0, [B, H].
        """
        return hidden_chain(
            x0.indptr,
            x0.items,
            x0.values,
            self.item_in,
            self.gram,
            self.bias,
            self.time,
            self.x0_coefficient,
            self.xt_coefficient,
        )

    def run_from(self, first: torch.Tensor) -> torch.Tensor:
        """``run`` where ``x_0 item_in`` [B, H] is known."""
        n_rows = len(first)
        indptr, items = np.arange(n_rows + 1), np.arange(n_rows, dtype=np.int32)
        each_its_own = SparseRows(indptr, items, np.ones(n_rows, dtype=np.float32), n_rows)
        return replace(self, item_in=first).run(each_its_own)


@torch.no_grad()
def one_step(denoiser: Denoiser, x0: SparseRows) -> torch.Tensor:
    """The last hidden layer for x_0 as it is, at step 0: [B, hidden[-1]]."""
    table = denoiser.item_in
    rows = x0.to(table.device)
    values = rows.values
    if denoiser.normalize_input:
        squares = torch.zeros(len(x0), dtype=torch.float32, device=table.device)
        norms = squares.index_add_(0, rows.rows, values.square())
        values = values / norms.sqrt().clamp_min(1e-12)[rows.rows]
    steps = torch.zeros(len(x0), dtype=torch.int64, device=table.device)
    return denoiser.hidden_from(projected(rows, values, table), steps)


@torch.no_grad()
def dense_reverse(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x0: SparseRows,
    users: np.ndarray,
    *,
    prediction: str = "x0",
    sampling_steps: int = 0,
    sampling_noise: bool = False,
    seed: int = 0,
) -> torch.Tensor:
    """The reverse chain over dense states, for every setting: [B, N].

    Args:
        users: int64 [B], the keys of each row's noise.
        sampling_steps: noise x_0 this many steps forward first; 0 starts from x_0 itself, which
            DiffRec takes as naturally noised.
        sampling_noise: add the posterior's noise at every step but the last.
    """
    x = x0.dense().to(denoiser.item_in)

    def noise(epoch: int) -> torch.Tensor:
        keys: dict[str, Any] = {"seed": seed, "epoch": epoch, "users": users}
        return standard_noise(len(x0), x0.n_items, **keys, device=x.device).to(x)

    if sampling_steps:
        t = sampling_steps - 1
        x.mul_(float(schedule.signal[t]))
        x.add_(noise(FORWARD_EPOCH).mul_(float(schedule.sigma[t])))
    for t in range(schedule.steps - 1, -1, -1):
        step = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        output = denoiser(x, step)
        if prediction == "eps":
            output.mul_(float(schedule.sigma[t]))
            torch.sub(x, output, out=output).div_(float(schedule.signal[t]))
        # In place: a fresh B x N array costs about as much as the arithmetic on it.
        x.mul_(float(schedule.xt_coefficient[t]))
        x = output.mul_(float(schedule.x0_coefficient[t])).add_(x)
        if sampling_noise and t > 0:
            x.add_(noise(SAMPLING_EPOCH + t).mul_(float(schedule.posterior_variance[t]) ** 0.5))
    return x


def standard_noise(
    n_rows: int,
    n_items: int,
    *,
    seed: int,
    epoch: int,
    users: np.ndarray | torch.Tensor,
    device: torch.device | str = "cpu",
    scale: float = 1.0,
) -> torch.Tensor:
    """Gaussian noise of deviation ``scale`` keyed by (seed, epoch, user, item), float32
    [n_rows, n_items]."""
    zeros = torch.zeros(n_rows + 1, dtype=torch.int64, device=device)
    ones = torch.ones(n_rows, dtype=torch.float32, device=device)
    return noisy_input(
        zeros,
        torch.zeros(0, dtype=torch.int32, device=device),
        torch.zeros(0, dtype=torch.float32, device=device),
        n_items,
        ones,
        ones * scale,
        0.0,
        seed=seed,
        epoch=epoch,
        users=torch.as_tensor(users, device=device),
        device=device,
    )
