"""CODIGEM: a diffusion of interaction vectors with a network for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from pdrec_fast.checks import check_counts
from pdrec_fast.data import Histories
from pdrec_fast.diffusion.network import Batch, NetworkConfig, NetworkRecommender
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.denoising.normal_likelihood import normal_likelihood
from pdrec_fast.ops.denoising.tanh_error import tanh_error
from pdrec_fast.ops.onednn import corpus_layer
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

    def hidden(
        self, layers: nn.Sequential, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(the last hidden layer for z [B, N], weight and bias of the linear layer after it)."""
        places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
        first, last = (cast(nn.Linear, layers[place]) for place in (places[0], places[-1]))
        found: torch.Tensor = layers[1 : places[-1]](corpus_layer(z, first.weight, first.bias))
        return found, last.weight, last.bias


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

    Memory of a step: some 3 T matrices of users in a batch by items. The products of a step, two of
    users x items x width into and six out of every reverse network, two and three of the decoder,
    are its floor; what else it takes is in `docs/performance.md`.
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
        beta, network = self.config.beta, self.network
        latent: list[torch.Tensor] = []
        layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        n_items = network.decoder[0].in_features
        loss = torch.full(
            (len(batch),), 0.5 * n_items * _LOG_2_PI, dtype=torch.float32, device=self.device
        )
        for number in range(self.config.steps):
            z = self._scaled_noise(batch, number)
            # log q(z_i | z_{i-1}): the noise is what separates z from its mean.
            loss -= 0.5 * (n_items * (_LOG_2_PI + math.log(beta)) + _squares(z) / beta)
            if latent:
                z.add_(latent[-1], alpha=math.sqrt(1 - beta))
            else:
                rows, items, values = batch.rows.coordinates()
                z[rows, items] += math.sqrt(1 - beta) * values
            latent.append(z)
        loss += 0.5 * (n_items * _LOG_2_PI + _squares(latent[-1]))
        for number in range(self.config.steps - 1, 0, -1):
            layer = network.hidden(network.reverse[number - 1], latent[number])
            loss = loss + normal_likelihood(*layer, latent[number - 1])
        layer = network.hidden(network.decoder, latent[0])
        return loss + 0.5 * tanh_error(*layer, *batch.rows.coordinates())

    def _scaled_noise(self, batch: Batch, number: int) -> torch.Tensor:
        """``sqrt(beta) eps`` [B, N] of the step from z_number to the next."""
        config = self.config
        return standard_noise(
            len(batch),
            self.network.decoder[0].in_features,
            seed=config.seed,
            epoch=codigem_noise_epoch(batch.epoch, number, config.steps),
            users=batch.users + MODEL_NOISE_USERS,
            device=self.device,
            scale=math.sqrt(config.beta),
        )

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


def _squares(z: torch.Tensor) -> torch.Tensor:
    """Sum of squares of every row, [B]."""
    return torch.linalg.vector_norm(z, dim=1).square()
