"""L-DiffRec and LT-DiffRec: diffusion in the latent space of variational encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from pdrec_fast import buffers
from pdrec_fast.checks import (
    check_choices,
    check_counts,
    check_depths,
    check_dropout,
    check_not_negative,
)
from pdrec_fast.data import Histories
from pdrec_fast.diffusion.categories import item_vectors, k_means
from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.inputs import RowTensors, SparseRows, interaction_rows
from pdrec_fast.diffusion.network import Batch, NetworkConfig, NetworkRecommender
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.diffusion.schedule import NoiseSchedule, ScheduleName, make_schedule
from pdrec_fast.isolation import own_settings
from pdrec_fast.operands import Categories
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.denoising.corpus_cross_entropy import corpus_cross_entropy
from pdrec_fast.ops.selection.project import project
from pdrec_fast.random_keys import MODEL_NOISE_USERS, latent_noise_epoch

LatentWeighting = Literal["none", "rank", "interval"]


@dataclass(frozen=True)
class LatentConfig(NetworkConfig):
    """Settings of ``LatentDiffRec``, beside those of every network (``NetworkConfig``).

    Attributes:
        weighting: ``"none"`` is L-DiffRec, ``"rank"`` LT-DiffRec; ``"interval"`` weights by time.
        w_min, w_max: bounds of the interaction weights.
        categories: C, clusters of items, each with an encoder and a decoder of its own.
        item_width: width of the item vectors that are clustered.
        latent: width of the latent space, shared out among the categories by their sizes.
        hidden: widths of the denoiser's hidden layers.
        time_embedding: width of the step embedding.
        dropout: share of a user's interactions that the encoders miss, in training.
        kl_weight: of the encoders' divergence from a standard normal (the paper's gamma), which
            rises to it from 0 in the first ``kl_steps`` steps.
        diffusion_weight: of the diffusion's loss (the paper's lambda).
        schedule, steps, noise_scale, noise_min, noise_max: see ``make_schedule``.
    """

    lr: float = 3e-3
    weighting: LatentWeighting = "none"
    w_min: float = 0.1
    w_max: float = 1.0
    categories: int = 2
    item_width: int = 64
    latent: int = 200
    hidden: tuple[int, ...] = (300,)
    time_embedding: int = 10
    dropout: float = 0.5
    kl_weight: float = 0.3
    kl_steps: int = 1000
    diffusion_weight: float = 0.03
    schedule: ScheduleName = "linear-var"
    steps: int = 5
    noise_scale: float = 0.5
    noise_min: float = 0.001
    noise_max: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        check_choices(self, weighting=get_args(LatentWeighting), schedule=get_args(ScheduleName))
        counts = ("categories", "item_width", "latent", "time_embedding", "kl_steps", "steps")
        check_counts(self, *counts)
        check_depths(self, "categories")
        check_dropout(self)
        check_not_negative(self, "kl_weight", "diffusion_weight")
        if self.latent < self.categories:
            raise ValueError(
                f"latent={self.latent} must be at least categories={self.categories}: every "
                "category takes a part of it"
            )
        if not (self.hidden and all(isinstance(n, int) and n >= 1 for n in self.hidden)):
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}")
        if not 0 <= self.w_min <= self.w_max < math.inf:
            raise ValueError(
                f"need 0 <= w_min <= w_max, got w_min={self.w_min}, w_max={self.w_max}"
            )
        self.noise_schedule()

    def noise_schedule(self) -> NoiseSchedule:
        """The schedule these settings describe; it checks its own arguments."""
        return make_schedule(
            self.schedule,
            self.steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
        )


class LatentNetwork(nn.Module):
    """Encoders and decoders of all categories side by side, and the denoiser between them.

    A row of ``item_in`` [N, 2 D] or ``item_out`` [N, D] belongs to an item, a column to a latent
    dimension (twice, for mean and log variance), and a dimension to one category: entries of an
    item and a dimension of different categories count as 0. So all categories are one product.
    """

    category: torch.Tensor  # int64 [N], of the items
    category_of: torch.Tensor  # int64 [D], of the latent dimensions

    def __init__(self, n_items: int, config: LatentConfig) -> None:
        super().__init__()
        self.n_categories = config.categories
        width = config.latent
        self.register_buffer("category", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("category_of", torch.zeros(width, dtype=torch.int64))
        self.item_in = nn.Parameter(torch.empty(n_items, 2 * width, dtype=torch.float32))
        self.in_bias = nn.Parameter(torch.zeros(2 * width, dtype=torch.float32))
        self.item_out = nn.Parameter(torch.empty(n_items, width, dtype=torch.float32))
        self.item_bias = nn.Parameter(torch.zeros(n_items, dtype=torch.float32))
        self.denoiser = Denoiser(width, config.hidden, config.time_embedding)
        self._draw()

    def share_out(self, category: torch.Tensor) -> None:
        """Give every category, int64 [N], its part of the latent space, at least one dimension, and
        draw new weights for it."""
        sizes = torch.bincount(category, minlength=self.n_categories).double()
        width = len(self.category_of)
        spare = width - self.n_categories
        ends = (sizes.cumsum(0) / sizes.sum() * spare).round().long()
        ends += torch.arange(1, self.n_categories + 1)
        self.category.copy_(category)
        self.category_of.copy_(torch.searchsorted(ends, torch.arange(width), right=True))
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        """Normal weights of variance 2 / (fan_in + fan_out) within a category (Xavier)."""
        items = torch.bincount(self.category, minlength=self.n_categories)
        widths = torch.bincount(self.category_of, minlength=self.n_categories)
        for table, times in ((self.item_in, 2), (self.item_out, 1)):
            deviation = (2.0 / (items + times * widths).clamp_min(1).float()).sqrt()
            drawn = nn.init.normal_(torch.empty_like(table))
            within = Categories(self.category, self.category_of.repeat(times)).within(drawn)
            table.copy_(within * deviation[self.category][:, None])

    @property
    def categories(self) -> Categories:
        """Of the items and the latent dimensions."""
        return Categories(self.category, self.category_of)

    def encode(self, rows: RowTensors, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance [B, D] of q(z_0 | x), one layer as in the authors' code."""
        items = rows.items.long()
        twice = Categories(self.category[items], self.category_of.repeat(2))
        # Of the few items that the users have; the whole table need not be looked at.
        entries = twice.within(buffers.rows(self.item_in, items)) * values[:, None]
        layer = self.in_bias.repeat(len(rows), 1).index_add(0, rows.rows, entries)
        mean, log_variance = torch.tanh(layer).chunk(2, dim=1)
        return mean, log_variance

    def output(self) -> torch.Tensor:
        """The decoders: logits are ``z @ output().T + item_bias``; [N, D]."""
        return self.categories.within(self.item_out)


class LatentDiffRec(NetworkRecommender):
    """L-DiffRec (Wang et al. 2023, arXiv:2304.04971), and LT-DiffRec with
    ``weighting="rank"``.

    k-means puts the items into C categories by vectors of who has them (``item_vectors``; the
    authors take those of a trained LightGCN). A history x is cut into C parts, each part encoded
    into a normal distribution over its share of the latent space, and their samples side by side
    are z_0. A diffusion noises z_0, a denoiser predicts it back, and every category's decoder makes
    logits of its items from its share of the prediction. The loss is
    ``-log p(x | z) + kl_weight KL(q(z_0 | x) | N(0, I)) + diffusion_weight L``, with L DiffRec's
    bound over the latent space at a uniform step.

    Where paper and code differ: decoders are the paper's, one a category (the code's default is one
    over all of z); the likelihood is the code's, one multinomial over all items, which makes logits
    of different categories comparable, and its weights of the loss; steps are uniform, as in the
    paper. LT-DiffRec's x are T-DiffRec's weights, which are also what is to be reconstructed.

    Histories are scored without noise: z_0 is the mean of q, taken back through all steps.
    """

    KIND = "latent diffusion model"
    CONFIG = LatentConfig
    config: LatentConfig

    def __init__(
        self,
        config: LatentConfig | None = None,
        *,
        device: str | torch.device = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(config, device=device, **settings)
        self.schedule = self.config.noise_schedule()
        self._output: torch.Tensor | None = None

    @property
    def name(self) -> str:
        return "L-DiffRec" if self.config.weighting == "none" else "LT-DiffRec"

    def new_network(self, n_items: int) -> LatentNetwork:
        if n_items < self.config.categories:
            raise ValueError(
                f"categories={self.config.categories}: give at most {n_items}, the number of items"
            )
        return LatentNetwork(n_items, self.config)

    def prepare(self, rows: SparseRows) -> None:
        """Find the items' categories; weights are drawn anew for them."""
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        vectors = item_vectors(rows, config.item_width, generator)
        self.network.share_out(k_means(vectors, config.categories, generator))

    def losses(self, batch: Batch) -> torch.Tensor:
        """The loss of every user at a random step: float [B]."""
        config, network, rows = self.config, self.network, batch.rows
        kept = (batch.entry_draws >= config.dropout).float() / (1 - config.dropout)
        mean, log_variance = network.encode(rows, rows.values * kept)
        drawn, noise = (self._noise(batch, mean, draw) for draw in (0, 1))
        z0 = mean + torch.exp(0.5 * log_variance) * drawn
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
        steps = (batch.draws * config.steps).long()
        signal, sigma, weights = (
            of.float().to(self.device)[steps]
            for of in (
                self.schedule.signal,
                self.schedule.sigma,
                self.schedule.loss_weights("x0"),
            )
        )
        found = network.denoiser(signal[:, None] * z0 + sigma[:, None] * noise, steps)
        diffusion = weights * (found - z0).square().mean(dim=1)
        layer, categories = (network.item_out, network.item_bias), network.categories
        likelihood = -corpus_cross_entropy(
            found, *layer, *rows.coordinates(), categories=categories
        )
        kl_weight = config.kl_weight * min(batch.step / config.kl_steps, 1.0)
        return kl_weight * divergence + config.diffusion_weight * diffusion - likelihood

    def _noise(self, batch: Batch, like: torch.Tensor, draw: int) -> torch.Tensor:
        return standard_noise(
            *like.shape,
            seed=self.config.seed,
            epoch=latent_noise_epoch(batch.epoch, draw),
            users=batch.users + MODEL_NOISE_USERS,
            device=self.device,
        )

    @own_settings()
    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """z_0 after the reverse process: scores are products with ``item_vectors``; [B, latent]."""
        self.fitted_network()
        rows = self.inputs(histories).to(self.device)
        z, _ = self.network.encode(rows, rows.values)
        for step in range(self.schedule.steps - 1, -1, -1):
            steps = torch.full((len(z),), step, device=self.device)
            found = self.network.denoiser(z, steps)
            z = float(self.schedule.x0_coefficient[step]) * found + (
                float(self.schedule.xt_coefficient[step]) * z
            )
        return z

    has_user_vectors = True

    @property
    def item_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(vectors [N, latent], offsets [N]): scores are products with ``user_vectors``."""
        self.fitted_network()
        if self._output is None:
            self._output = self.network.output().detach()
        return self._output, self.network.item_bias.detach()

    @own_settings()
    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Logits over the items.

        Args:
            histories: B histories.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N], on the model's device.

        Raises:
            NotFittedError: not fitted.
            DataError: the histories are over other items.
        """
        vectors = self.user_vectors(histories)
        table, bias = self.item_vectors
        if items is None:
            return project(vectors, table, bias)
        return item_logits(vectors, table, items.to(self.device), bias=bias)

    def weights_changed(self) -> None:
        """Forget the decoders as they were."""
        self._output = None

    def item_directions(self) -> torch.Tensor:
        """Unit vectors [n_items, latent] of the decoders' items."""
        return torch.nn.functional.normalize(self.item_vectors[0], dim=-1)

    def _rows(self, histories: Histories) -> SparseRows:
        config = self.config
        return interaction_rows(
            histories, weighting=config.weighting, w_min=config.w_min, w_max=config.w_max
        )
