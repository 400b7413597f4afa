"""Noise schedules of DiffRec (Wang et al., SIGIR 2023) and the coefficients derived from them.

Steps are numbered 0 .. T-1 as in DiffRec's code; step t here is step t+1 of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pdrec_fast.isolation import own_settings

ScheduleName = Literal["linear", "linear-var", "cosine", "binomial"]
FIRST_BETA = 1e-5  # DiffRec fixes the first variance so that step 0 barely disturbs the input
MAX_BETA = 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    """Variances ``beta_t`` of q(x_t | x_{t-1}) and the quantities derived from them.

    All tensors are float64 of shape [T] on the CPU.

    Attributes:
        betas: variances of the forward steps.
        alpha_bar: cumulative products of ``1 - beta`` (the paper's  ᾱ_t).
        signal: ``sqrt(alpha_bar)``, the factor of x_0 in q(x_t | x_0).
        sigma: ``sqrt(1 - alpha_bar)``, the factor of the noise in q(x_t | x_0).
        x0_coefficient, xt_coefficient: the posterior mean of q(x_{t-1} | x_t, x_0) is
            ``x0_coefficient * x_0 + xt_coefficient * x_t`` (Ho et al. 2020, eq. 7).
        posterior_variance: variance of that posterior.
    """

    betas: torch.Tensor

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or not len(self.betas):
            raise ValueError(f"betas must be a non-empty vector, got shape {self.betas.shape}")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError(
                f"every beta must lie in (0, 1), got {self.betas.tolist()}: change noise_scale, "
                "noise_min, noise_max or the schedule"
            )

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def alpha_bar(self) -> torch.Tensor:
        return torch.cumprod(1 - self.betas, dim=0)

    @property
    def _previous_alpha_bar(self) -> torch.Tensor:
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    @property
    def signal(self) -> torch.Tensor:
        return self.alpha_bar.sqrt()

    @property
    def sigma(self) -> torch.Tensor:
        return self._variance.sqrt()

    @property
    def _variance(self) -> torch.Tensor:
        # 1 - alpha_bar without its cancellation, which for small betas costs half the digits.
        return -torch.expm1(torch.log1p(-self.betas).cumsum(dim=0))

    @property
    def _previous_variance(self) -> torch.Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self._variance[:-1]])

    @property
    def x0_coefficient(self) -> torch.Tensor:
        return self.betas * self._previous_alpha_bar.sqrt() / self._variance

    @property
    def xt_coefficient(self) -> torch.Tensor:
        return self._previous_variance * (1 - self.betas).sqrt() / self._variance

    @property
    def posterior_variance(self) -> torch.Tensor:
        return self.betas * self._previous_variance / self._variance

    def loss_weights(self, prediction: str) -> torch.Tensor:
        """Weight of each step's squared error, shape [T] (DiffRec, eq. 10 and 12).

        For x0-prediction ``SNR(t-1) - SNR(t)``, for eps-prediction the same bound written for the
        noise, ``beta_t / ((1 - beta_t) (1 - alpha_bar_{t-1}))``; step 0 has weight 1 (its term is
        the reconstruction likelihood).
        """
        if prediction == "x0":
            snr = self.alpha_bar / self._variance
            weights = snr[:-1] - snr[1:]
        else:
            weights = (self.betas / ((1 - self.betas) * self._previous_variance))[1:]
        return torch.cat([torch.ones(1, dtype=torch.float64), weights])


@own_settings()
def make_schedule(
    name: ScheduleName,
    steps: int,
    *,
    noise_scale: float = 0.01,
    noise_min: float = 0.0005,
    noise_max: float = 0.005,
    fix_first_beta: bool = True,
) -> NoiseSchedule:
    """Build one of DiffRec's schedules.

    Args:
        name: ``"linear"``: betas evenly spaced from ``noise_scale * noise_min`` to
            ``noise_scale * noise_max``; ``"linear-var"``: the total variances ``1 - alpha_bar``
            evenly spaced between the same ends; ``"cosine"`` (Nichol & Dhariwal 2021);
            ``"binomial"`` (Sohl-Dickstein et al. 2015). The last two take no noise bounds.
        steps: T, at least 1.
        fix_first_beta: set the first beta to 1e-5.

    Raises:
        ValueError: an unknown name, or an argument out of its range.
    """
    if name not in get_args(ScheduleName):
        raise ValueError(f"unknown schedule={name!r}; choose one of {get_args(ScheduleName)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if name in ("linear", "linear-var"):
        if not 0 < noise_scale * noise_min <= noise_scale * noise_max < 1:
            raise ValueError(
                "need 0 < noise_scale * noise_min <= noise_scale * noise_max < 1, got "
                f"noise_scale={noise_scale}, noise_min={noise_min}, noise_max={noise_max}"
            )
        ends = noise_scale * noise_min, noise_scale * noise_max
        betas = torch.linspace(*ends, steps, dtype=torch.float64)
        if name == "linear-var":
            betas = _betas_from_alpha_bar(1 - betas)
    elif name == "cosine":
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)
    else:
        betas = 1 / (steps - torch.arange(steps, dtype=torch.float64) + 1)
    if fix_first_beta:
        betas[0] = FIRST_BETA
    return NoiseSchedule(betas)


def _betas_from_alpha_bar(alpha_bar: torch.Tensor) -> torch.Tensor:
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return (1 - alpha_bar / previous).clamp(max=MAX_BETA)
