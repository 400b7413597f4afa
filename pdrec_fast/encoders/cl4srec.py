"""CL4SRec (Xie et al., ICDE 2022): SASRec with a contrastive loss, on packed sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_not_negative, check_positive
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.devices import to_device
from pdrec_fast.encoders.sasrec import SASRec, SASRecConfig
from pdrec_fast.encoders.views import Augmentation


@dataclass(frozen=True)
class CL4SRecConfig(SASRecConfig):
    """Options of ``CL4SRec``: those of ``SASRec``, and of its contrastive loss.

    Attributes:
        crop, mask, reorder: η, γ and β, see ``Augmentation``.
        contrast_weight: λ, of the contrastive loss.
        temperature: of the contrastive loss; the original has none.
    """

    crop: float = 0.6
    mask: float = 0.3
    reorder: float = 0.6
    contrast_weight: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "contrast_weight")
        check_positive(self, "temperature")
        self.augmentation()

    def augmentation(self) -> Augmentation:
        """How views are made; checks its own arguments."""
        return Augmentation(self.crop, self.mask, self.reorder)


class CL4SRec(SASRec):
    """SASRec that also learns to tell a user by two random views of the sequence.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: CL4SRecConfig | None = None, **options: Any) -> None:
        config = replace(config or CL4SRecConfig(), **options)
        super().__init__(n_items, config)
        self.augmentation = config.augmentation()
        self.contrast_weight, self.temperature = config.contrast_weight, config.temperature
        # Not a row of the table, as every row is an item that can be recommended.
        spread = float(self.item_embedding.weight.detach().std())
        masked = torch.empty(self.item_embedding.embedding_dim, dtype=torch.float32)
        self.mask_embedding = nn.Parameter(spread * nn.init.normal_(masked))

    def augment(self, sequences: PackedSequences) -> PackedSequences:
        """Two views of every sequence, see ``Augmentation.views``; N stands for a masked item."""
        n_items = self.item_embedding.num_embeddings
        return self.augmentation.views(sequences, self.max_length, mask_item=n_items)

    def auxiliary_loss(self, views: PackedSequences) -> torch.Tensor:
        """λ times the ``info_nce`` of the views' last states: float32 []."""
        return self.contrast(self.view_states(views))

    def view_states(self, views: PackedSequences) -> torch.Tensor:
        """The last states of all sequences' first views, then of their second ones: [2 B, d]."""
        masked = views.items == self.item_embedding.num_embeddings
        items = self.item_embedding(views.items.masked_fill(masked, 0))
        items = torch.where(masked.unsqueeze(1), self.mask_embedding, items)
        states = self._states(items, views)
        order = to_device(torch.from_numpy(views.sources.argsort()), states.device)
        return states.index_select(0, views.last.index_select(0, order))

    def contrast(self, states: torch.Tensor) -> torch.Tensor:
        """λ times the ``info_nce`` of what ``view_states`` gives: float32 []."""
        first, second = states.chunk(2)
        return self.contrast_weight * info_nce(first, second, self.temperature)


def info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over all 2 B views v, v+ being the other one of the same sequence, of

    ``-log(exp(v . v+ / τ) / (exp(v . v+ / τ) + Σ exp(v . v- / τ)))``

    where v- runs over the 2 (B - 1) views of other sequences; 0 where there are none.

    Args:
        first, second: [B, d], the two views of every sequence.
        temperature: τ.
    """
    views = torch.cat([first, second])
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    logits = (views @ views.t() / temperature).masked_fill(itself, -torch.inf)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits, other)
