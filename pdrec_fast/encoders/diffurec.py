"""DiffuRec (Li, Sun & Li, TOIS 2023, arXiv:2304.00686)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from pdrec_fast.checks import check_not_negative
from pdrec_fast.encoders.base import positions_like_items, xavier_init
from pdrec_fast.encoders.diffused_target import (
    INPUTS,
    DiffusedTarget,
    DiffusedTargetConfig,
    Seen,
)
from pdrec_fast.encoders.transformer import first_after


@dataclass(frozen=True)
class DiffuRecConfig(DiffusedTargetConfig):
    """Options of ``DiffuRec``: those of a diffused target, and of its uncertainty.

    Attributes:
        uncertainty: δ, mean and standard deviation of how much of the noisy target is added to an
            item.
    """

    uncertainty: float = 0.001
    scoring_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "uncertainty")


class DiffuRec(DiffusedTarget):
    """Items as distributions: to each item e_i of the prefix the noisy target is added,
    ``z_i = e_i + λ_i (x_s + d_s)`` with λ_i from N(δ, δ) and d_s the step's vector, and a
    Transformer without a causal mask makes x_0 of them, its output at the latest item; the ranking
    loss sets it against the item table (the paper's cross-entropy and rounding).

    λ_i is a number here, in the paper a vector; to score, it is δ, and the steps back draw nothing
    and may be fewer than T (``DiffusedTarget``), so that the same history has the same scores. The
    schedule is linear; the authors' code adds 0.01 to its β. Blocks normalise their inputs, as in
    that code; positions are added to the items. It learns from ``prefixes`` of a sequence in every
    epoch.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: DiffuRecConfig | None = None, **options: Any) -> None:
        config = replace(config or DiffuRecConfig(), **options)
        super().__init__(n_items, config, pre_norm=True)
        self.uncertainty = config.uncertainty
        xavier_init(self)
        positions_like_items(self)

    def denoised(self, seen: Seen, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """See ``DiffusedTarget.denoised``."""
        shares = self.uncertainty * (1 + seen.spread)
        noisy = x + self._mapped_steps(steps)
        z = seen.items + shares.unsqueeze(1) * noisy.index_select(0, seen.rows.row)
        found = first_after(self.blocks, z, seen.rows, seen.drop)
        ends = torch.arange(found.shape[0] + 1, device=found.device)
        return self.norm(seen.drop(found, ends, INPUTS + 1))
