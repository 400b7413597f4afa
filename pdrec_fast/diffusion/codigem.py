"""CODIGEM: a diffusion of interaction vectors with a network for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from pdrec_fast.checks import check_counts, check_integers
from pdrec_fast.data import Histories
from pdrec_fast.diffusion.network import Batch, NetworkConfig, NetworkRecommender
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.isolation import own_settings
from pdrec_fast.random_keys import MODEL_NOISE_USERS, codigem_noise_epoch

_LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class CodigemConfig(NetworkConfig):
    """Settings of ``Codigem``, beside those of every network (``NetworkConfig``).

    Attributes:
        steps: T, latent vectors z_1 .. z_T. Networks of the T - 1 reverse steps take most of the
            time and have no part in the scores: with 1 there are none.
        beta: variance of every forward step, in (0, 1).
        hidden: widths of the hidden layers of every network.
    """

    steps: int = 3
    beta: float = 1e-4
    hidden: tuple[int, ...] = (200, 200, 200, 200, 200)

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        check_integers(self, "steps")
        check_counts(self, "steps")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie in (0, 1), got {self.beta}")
        if not (self.hidden and all(isinstance(n, int) and n >= 1 for n in self.hidden)):
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}")


class CodigemNetwork(nn.Module):
    """``reverse[i - 1]`` gives mean and log variance of p(z_i | z_{i+1}), i = 1 .. T-1;
    ``decoder`` the mean of p(x | z_1), in (-1, 1)."""

    def __init__(self, n_items: int, config: CodigemConfig) -> None:
        super().__init__()
        hidden = [n_items, *config.hidden]
        self.reverse = nn.ModuleList(_mlp([*hidden, 2 * n_items]) for _ in range(config.steps - 1))
        self.decoder = _mlp([*hidden, n_items])
        self.decoder.append(nn.Tanh())

    def step(self, number: int, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, log variance) [B, N] of z_number given z_{number+1}."""
        mean, log_variance = self.reverse[number - 1](z).chunk(2, dim=1)
        return mean, log_variance


class Codigem(NetworkRecommender):
    """The collaborative diffusion generative model (Walker et al. 2022, "Recommendation via
    Collaborative Diffusion Generative Model", KSEM).

    The forward process is ``z_i = sqrt(1 - beta) z_{i-1} + sqrt(beta) eps`` from z_0 = x, the
    history as a vector of zeros and ones. Every reverse step p(z_i | z_{i+1}) is a Gaussian by a
    network of its own, p(z_T) a standard normal, and p(x | z_1) a normal of variance 1 around the
    decoder. The loss is the negative evidence lower bound, by one sample of z_1 .. z_T:
    ``-log p(x | z_1) - sum_i log p(z_i | z_{i+1}) - log p(z_T) + sum_i log q(z_i | z_{i-1})``.

    In the authors' code q(z_i | z_{i-1}) is taken around sqrt(1 - beta) z_i; here it is around
    sqrt(1 - beta) z_{i-1}, as the bound has it. It holds no weight, so the gradient is the same.
    A history is scored by the decoder alone, after one forward step, as in their code: through all
    reverse steps it ranks no better than popularity. The step is taken by its mean, where their
    code draws, so that scores do not change from call to call. AdamW takes the place of Adamax.

    Memory of a step: a few matrices of users in a batch by items.
    """

    KIND = "CODIGEM model"
    CONFIG = CodigemConfig
    config: CodigemConfig

    @property
    def name(self) -> str:
        return "CODIGEM"

    def new_network(self, n_items: int) -> CodigemNetwork:
        return CodigemNetwork(n_items, self.config)

    def losses(self, batch: Batch) -> torch.Tensor:
        """The negative evidence lower bound of every user, one sample: float32 [B]."""
        config, network, rows = self.config, self.network, batch.rows
        shape = len(batch), network.decoder[-2].out_features
        x = torch.zeros(shape, dtype=torch.float32, device=self.device)
        x[rows.rows, rows.items.long()] = rows.values
        z, bound = x, torch.zeros(len(batch), dtype=x.dtype, device=self.device)
        latent = []
        for number in range(config.steps):
            noise = standard_noise(
                *x.shape,
                seed=config.seed,
                epoch=codigem_noise_epoch(batch.epoch, number, config.steps),
                users=batch.users + MODEL_NOISE_USERS,
                device=self.device,
            )
            z = math.sqrt(1 - config.beta) * z + math.sqrt(config.beta) * noise
            latent.append(z)
            # log q(z_i | z_{i-1}): the noise is what separates z from its mean.
            bound = bound - _log_normal(noise, 0.0, 0.0) + 0.5 * math.log(config.beta) * x.shape[1]
        bound = bound + _log_normal(latent[-1], 0.0, 0.0)
        for number in range(config.steps - 1, 0, -1):
            bound = bound + _log_normal(latent[number - 1], *network.step(number, latent[number]))
        return -(bound + _log_normal(x, network.decoder(latent[0]), 0.0))

    @own_settings()
    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of p(x | z_1) at the mean of q(z_1 | x).

        Args:
            histories: B histories.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N] in (-1, 1), on the model's device.

        Raises:
            NotFittedError: not fitted.
            DataError: the histories are over other items.
        """
        z = self.inputs(histories).dense().to(self.device).mul_(math.sqrt(1 - self.config.beta))
        found: torch.Tensor = self.network.decoder(z)
        return found if items is None else found.gather(1, items.to(self.device))

    def item_directions(self) -> torch.Tensor:
        """Unit vectors [n_items, hidden[-1]] of the decoder's output layer."""
        self.fitted_network()
        return torch.nn.functional.normalize(self.network.decoder[-2].weight.detach(), dim=-1)


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with a PReLU after each but the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [
            nn.Linear(fan_in, fan_out, dtype=torch.float32),
            nn.PReLU(dtype=torch.float32),
        ]
    return nn.Sequential(*layers[:-1])


def _log_normal(
    z: torch.Tensor, mean: torch.Tensor | float, log_variance: torch.Tensor | float
) -> torch.Tensor:
    """Log density [B] of independent normals at z [B, N]."""
    variance = torch.as_tensor(log_variance, dtype=z.dtype, device=z.device)
    terms = _LOG_2_PI + variance + (z - mean).square() * torch.exp(-variance)
    return -0.5 * terms.sum(dim=1)
