"""What guides add to the logits, on padded ids, in traceable steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.diffusion import DiffRec
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.item_matrix import ItemMatrix, reading_steps
from pdrec_fast.diffusion.reverse import HiddenChain
from pdrec_fast.export.padded import FIRST_ID, remaining


class HistoryWeights(nn.Module):
    """x'_0 as the weights of a history's places, see ``ops.denoising.interval_weights``; 0 where an
    item occurs again later, and where a place does not count.

    Args:
        known: bool [N + 1], see ``padded.remaining``.
        has_times: whether the data have timestamps; without them the weights go by rank.
    """

    known: torch.Tensor

    def __init__(self, config: DiffusionConfig, known: torch.Tensor, has_times: bool) -> None:
        super().__init__()
        self.config = config
        without_times = {"interval": "rank", "half-life": "decay"}
        self.reads_times = has_times and config.weighting in without_times
        self.weighting = (
            config.weighting
            if self.reads_times
            else without_times.get(config.weighting, config.weighting)
        )
        self.register_buffer("known", known)

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """float32 [B, L] for padded ids int64 [B, L] and their times float64 [B, L]."""
        keep, back = remaining(items, self.known)
        weights = self._weights(keep, back, times)
        place = torch.arange(items.shape[1], device=items.device)
        again = (items[:, :, None] == items[:, None, :]) & (place > place[:, None])
        return torch.where(keep & ~again.any(2), weights, 0.0).float()

    def _weights(
        self, keep: torch.Tensor, back: torch.Tensor, times: torch.Tensor | None
    ) -> torch.Tensor:
        config, weighting = self.config, self.weighting
        low, rise = config.w_min, config.w_max - config.w_min
        steps = back.double()
        if weighting == "none":
            return torch.ones_like(steps)
        if weighting == "decay":
            return low + torch.pow(config.decay, steps) * rise
        if weighting == "rank":
            n = keep.sum(1, keepdim=True)
            weights = low + (n - 1 - back) * (rise / (n - 1).clamp_min(1).double())
            return torch.where((back == 0) & (n > 1), config.w_max, weights)
        assert times is not None
        last = torch.where(keep, times, -torch.inf).amax(1, keepdim=True)
        if weighting == "half-life":
            return low + torch.exp2((times - last) / config.half_life) * rise
        first = torch.where(keep, times, torch.inf).amin(1, keepdim=True)
        span = last - first
        weights = low + (times - first) / torch.where(span > 0, span, 1.0) * rise
        return torch.where(span > 0, weights.clamp_max(config.w_max), config.w_max)


class DiffusionVectors(nn.Module):
    """``[h, 1]`` for the item matrix ``[item_out, item_bias]``, h as ``DiffRec.user_vectors``."""

    item_in: torch.Tensor
    gram: torch.Tensor
    bias: torch.Tensor
    time: torch.Tensor

    def __init__(self, guide: DiffRec, known: torch.Tensor, has_times: bool) -> None:
        super().__init__()
        denoiser = guide.fitted_denoiser()
        self.weights = HistoryWeights(guide.config, known, has_times)
        self.normalize = denoiser.normalize_input
        self.inner = denoiser.inner
        self.one_step = guide.config.likelihood == "multinomial"
        chain = HiddenChain.prepare(denoiser, guide.schedule)
        self.coefficients = list(
            zip(chain.x0_coefficient.tolist(), chain.xt_coefficient.tolist(), strict=True)
        )
        for name in ("item_in", "gram", "bias", "time"):
            self.register_buffer(name, getattr(chain, name).detach())

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """float32 [B, H + 1]."""
        weights = self.weights(items, times)
        if self.normalize:
            weights = F.normalize(weights, dim=1)
        rows = F.embedding((items - FIRST_ID).clamp_min(0), self.item_in)
        projection = (weights[:, None, :] @ rows)[:, 0]
        h = self._one_step(projection) if self.one_step else self._chain(projection)
        return torch.cat([h, h.new_ones((h.shape[0], 1))], dim=1)

    def _one_step(self, projection: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(projection + self.time[0])
        for layer in self.inner:
            h = torch.tanh(layer(h))
        return h

    def _chain(self, projection: torch.Tensor) -> torch.Tensor:
        """The steps of ``reference.denoising.hidden_chain``."""
        a, s = 1.0, 0.0
        g = h = torch.zeros_like(projection)
        for t in range(len(self.coefficients) - 1, -1, -1):
            h = torch.tanh(a * projection + g @ self.gram + s * self.bias + self.time[t])
            c1, c2 = self.coefficients[t]
            g = c1 * h + c2 * g
            a, s = c2 * a, c1 + c2 * s
        return h


class ItemItemScores(nn.Module):
    """``ItemMatrix.scores``: the sum of the rows of its matrix, weighted by ``decay``."""

    known: torch.Tensor
    starts: torch.Tensor
    targets: torch.Tensor
    values: torch.Tensor

    def __init__(self, guide: ItemMatrix) -> None:
        super().__init__()
        indptr, targets, values = guide.matrix
        self.n_items, self.decay = len(indptr) - 1, guide.config.decay
        self.steps = reading_steps(guide.config.decay)
        # By id. A row without entries gets one of 0, so that no batch is without any.
        lengths = torch.cat([torch.zeros(1, dtype=torch.int64), torch.from_numpy(indptr).diff()])
        self.register_buffer("known", lengths > 0)
        at = torch.repeat_interleave(
            torch.arange(self.n_items + 1), lengths.clamp_min(1)
        )  # the row of every entry
        filled = self.known[at]
        all_targets = torch.zeros(len(at), dtype=torch.int64)
        all_values = torch.zeros(len(at))
        all_targets[filled], all_values[filled] = (
            torch.from_numpy(targets).long(),
            torch.from_numpy(values),
        )
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.clamp_min(1).cumsum(0)])
        self.register_buffer("starts", starts)
        self.register_buffer("targets", all_targets)
        self.register_buffer("values", all_values)

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """float32 [B, N]."""
        n_rows, length = items.shape
        keep, back = remaining(items, self.known)
        if self.steps is not None:
            keep = keep & (back < self.steps)
        weights = torch.where(keep, torch.pow(self.decay, back.double()), 0.0).float().flatten()
        ids = (items * keep).flatten()
        first = self.starts[ids]
        lengths = self.starts[ids + 1] - first
        # The matrix's rows of all places one after the other: ``place`` and ``entry`` of each.
        ends = lengths.cumsum(0)
        total: Any = ends[-1].item()  # int() would fix it in the trace
        torch._check(total >= 1)
        marks = ends.new_zeros(total + 1).scatter_add(0, ends, torch.ones_like(ends))
        place = marks.cumsum(0)[:-1]
        entry = (first - ends + lengths)[place] + torch.arange(total, device=items.device)
        products = self.values[entry] * weights[place]
        column = place // length * self.n_items + self.targets[entry]
        scores = products.new_zeros(n_rows * self.n_items).scatter_add(0, column, products)
        return scores.view(n_rows, self.n_items)
