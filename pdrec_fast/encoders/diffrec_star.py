"""DiffRec* (Du et al., 2023, arXiv:2304.04541), the sequential one of the models named DiffRec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from pdrec_fast.encoders.base import positions_like_items, xavier_init
from pdrec_fast.encoders.diffused_target import DiffusedTarget, DiffusedTargetConfig, Seen
from pdrec_fast.encoders.transformer import first_after


@dataclass(frozen=True)
class DiffRecStarConfig(DiffusedTargetConfig):
    """Options of ``DiffRecStar``: those of a diffused target."""


class DiffRecStar(DiffusedTarget):
    """Only the target is drowned in noise, and it takes its place after the items of the prefix: a
    Transformer without a causal mask reads ``[e_1, ..., e_n, x_s + d_s]``, d_s being the step's
    vector, and its output at the last place is the x_0 that is ranked. The step from vectors to
    items, and the objective that is left when it is simplified, is the cross-entropy of x_0 with
    the item table: the ranking loss. To score, the default is one step back from pure noise
    (``scoring_steps`` of 1).

    There is no code of the authors to compare with. Blocks normalise their outputs, as BERT's do.
    Where the noise of scoring would be drawn anew, it is the same for everybody here, and the steps
    of training are drawn uniformly (``DiffusedTarget``); the paper's strategies of cheaper training
    and inference are not rebuilt beyond that.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(
        self, n_items: int, config: DiffRecStarConfig | None = None, **options: Any
    ) -> None:
        config = replace(config or DiffRecStarConfig(), **options)
        super().__init__(n_items, config, pre_norm=False)
        xavier_init(self)
        positions_like_items(self)

    def denoised(self, seen: Seen, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """See ``DiffusedTarget.denoised``."""
        noisy = x + self._mapped_steps(steps) + self.position_embedding.weight[0]
        rows, z = seen.rows.after(noisy, seen.items)
        return self.norm(first_after(self.blocks, z, rows, seen.drop))
