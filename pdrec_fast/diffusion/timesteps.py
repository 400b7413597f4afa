"""Importance sampling of diffusion steps by their losses (Nichol & Dhariwal 2021, sec. 3.3)."""

from __future__ import annotations

import torch

HISTORY = 10  # losses remembered per step
UNIFORM_SHARE = 0.001


class TimestepSampler:
    """Draws steps with probability proportional to the root mean square of their last losses.

    Uniform until every step has ``HISTORY`` losses. Avoids host synchronisation.

    Args:
        steps: T.
        importance: False draws uniformly always.
    """

    def __init__(
        self, steps: int, *, importance: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.steps = steps
        self.importance = importance
        self.losses = torch.zeros(steps, HISTORY, dtype=torch.float64, device=device)
        self.counts = torch.zeros(steps, dtype=torch.int64, device=device)

    def probabilities(self) -> torch.Tensor:
        """Probability of each step, float64 [T]."""
        uniform = torch.full_like(self.losses[:, 0], 1 / self.steps)
        if not self.importance:
            return uniform
        rms = self.losses.square().mean(dim=1).sqrt()
        weighted = rms / rms.sum().clamp_min(torch.finfo(torch.float64).tiny)
        weighted = (1 - UNIFORM_SHARE) * weighted + UNIFORM_SHARE / self.steps
        # The epoch loop reports losses that are not finite; until then draws are uniform.
        warm = (self.counts >= HISTORY).all() & (rms.sum() > 0) & rms.sum().isfinite()
        return torch.where(warm, weighted, uniform)

    def sample(self, fractions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a step for each of B random numbers, on every device the same.

        Args:
            fractions: float64 [B], uniform in [0, 1).

        Returns:
            steps int64 [B], and the factor by which each one's loss must be divided to stay
            unbiased, ``T * p(step)``, float64 [B].
        """
        probabilities = self.probabilities()
        # Not cumsum: on a GPU torch has no deterministic one.
        bounds = probabilities.expand(self.steps, self.steps).tril().sum(dim=1)
        # The last bound is left out: rounding may put it below a fraction.
        steps = torch.searchsorted(bounds[:-1], fractions, right=True)
        return steps, probabilities[steps] * self.steps

    def update(self, steps: torch.Tensor, losses: torch.Tensor) -> None:
        """Remember the losses [B] seen at steps [B], the latest ``HISTORY`` of each step."""
        order = torch.argsort(steps, stable=True)
        ordered = steps[order]
        # torch.bincount would synchronise with the GPU.
        sizes = torch.zeros_like(self.counts).scatter_add_(0, steps, torch.ones_like(steps))
        place = torch.arange(len(steps), device=steps.device) - (sizes.cumsum(0) - sizes)[ordered]
        slot = (self.counts[ordered] + place) % HISTORY
        # Older losses of this batch that later ones would overwrite go to a spare column instead,
        # so that no element is written twice.
        slot = torch.where(place >= sizes[ordered] - HISTORY, slot, HISTORY)
        padded = torch.cat([self.losses, self.losses[:, :1]], dim=1)
        padded[ordered, slot] = losses.detach().double()[order]
        self.losses = padded[:, :HISTORY].contiguous()
        self.counts = self.counts + sizes

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``losses`` float64 [T, HISTORY] and ``counts`` int64 [T]."""
        return {"losses": self.losses, "counts": self.counts}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take on what ``state_dict`` gave, on this sampler's device."""
        self.losses = state["losses"].to(self.losses.device)
        self.counts = state["counts"].to(self.counts.device)
