"""Items as an embedding of their own plus a linear map of what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


class FeaturedEmbedding(nn.Embedding):
    """``table = trained * own + features W``, so that an item without records has a place.

    ``weight`` is the part of its own; it counts only for items that are trained on. Its rows begin
    small, so that the features say first what they can.

    Args:
        features: float32 [n_items, F].
        trained: bool [n_items], the items in the training interactions.
        width: d.
        scale: root mean square of the entries of ``features W`` at the start.
        seed: of W and the own parts.
    """

    features: torch.Tensor
    trained: torch.Tensor

    def __init__(
        self, features: np.ndarray, trained: np.ndarray, width: int, scale: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        kind: Any = {"generator": generator, "dtype": torch.float32}
        own = torch.randn(len(features), width, **kind) * (_OWN_SHARE * scale)
        super().__init__(len(features), width, _weight=own)
        norm = float(np.sqrt(np.mean(np.square(features[trained]).sum(1)))) or 1.0
        start = torch.randn(width, features.shape[1], **kind) * scale
        self.projection = nn.Parameter(start)
        # Not saved: they come with the data.
        self.register_buffer("features", torch.from_numpy(features / norm), persistent=False)
        mask = torch.from_numpy(trained.astype(np.float32))[:, None]
        self.register_buffer("trained", mask, persistent=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        own = super().forward(items) * self.trained[items]
        return own + nn.functional.linear(self.features[items], self.projection)

    def table(self) -> torch.Tensor:
        """[n_items, d], every item's embedding."""
        return self.weight * self.trained + nn.functional.linear(self.features, self.projection)


_OWN_SHARE = 0.1


def item_table(encoder: Any) -> torch.Tensor:
    """[N, d], what an encoder's states are multiplied with."""
    embedding = encoder.item_embedding
    table: torch.Tensor = (
        embedding.table() if isinstance(embedding, FeaturedEmbedding) else embedding.weight
    )
    return table


def with_features(encoder: Any, features: np.ndarray, trained: np.ndarray, seed: int) -> None:
    """Give ``encoder`` a ``FeaturedEmbedding`` in place of its ``item_embedding``.

    Raises:
        ValueError: that is no plain ``nn.Embedding`` attribute with one row for each item.
    """
    plain = getattr(encoder, "item_embedding", None)
    named = "item_embedding" in dict(encoder.named_children())
    if type(plain) is not nn.Embedding or not named or plain.padding_idx is not None:
        raise ValueError(
            f"item features need an encoder whose item_embedding is an nn.Embedding of its own; "
            f"that of {type(encoder).__name__} is not: pass data without features"
        )
    scale = float(plain.weight.detach().square().mean().sqrt())
    made = FeaturedEmbedding(features, trained, plain.embedding_dim, scale, seed)
    encoder.item_embedding = made.to(plain.weight.device)
