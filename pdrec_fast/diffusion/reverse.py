"""The reverse process: from a user's interactions to preferences over every item (paper, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.inputs import SparseRows
from pdrec_fast.diffusion.schedule import NoiseSchedule
from pdrec_fast.ops.noisy_input import noisy_input

# Noise of inference is drawn under epoch numbers that training never reaches.
_FORWARD_EPOCH = 1 << 31
_SAMPLING_EPOCH = _FORWARD_EPOCH + 1


@dataclass(frozen=True)
class HiddenChain:
    """The part of the hidden-layer chain that does not depend on the user; see ``prepare``."""

    gram: torch.Tensor  # item_out' item_in [H, H]
    bias: torch.Tensor  # item_bias' item_in [H]
    time: torch.Tensor  # e(t) W_time + b_in for every step [T, H]
    x0_coefficient: list[float]
    xt_coefficient: list[float]

    @classmethod
    def prepare(cls, denoiser: Denoiser, schedule: NoiseSchedule) -> HiddenChain:
        """Sums over items that every user shares: 2 N H^2 operations, once per fitted model."""
        steps = torch.arange(schedule.steps, device=denoiser.item_in.device)
        return cls(
            denoiser.item_out.T @ denoiser.item_in,
            denoiser.item_bias @ denoiser.item_in,
            denoiser.time_term(steps),
            schedule.x0_coefficient.tolist(),
            schedule.xt_coefficient.tolist(),
        )

    def run(self, projection: torch.Tensor) -> torch.Tensor:
        """All T steps without leaving the hidden layer.

        Every state of the chain is ``x_t = a x_0 + item_out g + s item_bias``, so its
        pre-activation is ``a (x_0 item_in) + g gram + s bias + time_t``: T * B * H^2 operations in
        place of T * B * N * H. Since step 0 takes the predicted x_0 whole, the preferences are
        ``item_out h + item_bias`` for the h returned.

        Args:
            projection: ``x_0 item_in`` [B, H].

        Returns:
            h of step 0, [B, H].
        """
        a, s = 1.0, 0.0
        g = torch.zeros_like(projection)
        h = g
        for t in range(len(self.time) - 1, -1, -1):
            offset = self.time[t] + s * self.bias
            h = torch.tanh(torch.addmm(a * projection + offset, g, self.gram))
            c1, c2 = self.x0_coefficient[t], self.xt_coefficient[t]
            g = c1 * h + c2 * g
            a, s = c2 * a, c1 + c2 * s
        return h


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
        x = float(schedule.signal[t]) * x + float(schedule.sigma[t]) * noise(_FORWARD_EPOCH)
    for t in range(schedule.steps - 1, -1, -1):
        step = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        output = denoiser(x, step)
        if prediction == "eps":
            output = (x - float(schedule.sigma[t]) * output) / float(schedule.signal[t])
        x = float(schedule.x0_coefficient[t]) * output + float(schedule.xt_coefficient[t]) * x
        if sampling_noise and t > 0:
            x = x + float(schedule.posterior_variance[t]) ** 0.5 * noise(_SAMPLING_EPOCH + t)
    return x


def standard_noise(
    n_rows: int,
    n_items: int,
    *,
    seed: int,
    epoch: int,
    users: np.ndarray | torch.Tensor,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Standard Gaussian noise keyed by (seed, epoch, user, item), float32 [n_rows, n_items]."""
    zeros = torch.zeros(n_rows + 1, dtype=torch.int64, device=device)
    ones = torch.ones(n_rows, device=device)
    return noisy_input(
        zeros,
        torch.zeros(0, dtype=torch.int32, device=device),
        torch.zeros(0, device=device),
        n_items,
        ones,
        ones,
        0.0,
        seed=seed,
        epoch=epoch,
        users=users,
        device=device,
    )
