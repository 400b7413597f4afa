"""Models that read padded ids, as others write them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.encoders import PaddedEncoder


class PaddedGRU(nn.Module):
    def __init__(self, n_rows: int, width: int = 6) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_rows, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.gru(self.item_embedding(ids))[0]


class PaddedAttention(nn.Module):
    """One causal block that leaves out padding, wherever it stands."""

    def __init__(self, n_rows: int, length: int, width: int = 6) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"item": nn.Embedding(n_rows, width, padding_idx=0)})
        self.position = nn.Embedding(length, width)
        self.mix = nn.Linear(width, 3 * width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        real = ids > 0
        places = torch.arange(ids.shape[1])
        allowed = (places <= places[:, None]) & real[:, None] | torch.eye(len(places)).bool()
        x = self.tables["item"](ids) + self.position(places)
        attended = F.scaled_dot_product_attention(*self.mix(x).chunk(3, -1), attn_mask=allowed)
        return x + attended


def _right(n_items: int, *, max_length: int) -> PaddedEncoder:
    return PaddedEncoder(PaddedGRU(n_items + 1), max_length)


def _left(n_items: int, *, max_length: int) -> PaddedEncoder:
    model = PaddedAttention(n_items + 1, max_length)
    return PaddedEncoder(model, max_length, embedding="tables.item", side="left")


PADDED: dict[str, Callable[..., nn.Module]] = {"padded right": _right, "padded left": _left}
