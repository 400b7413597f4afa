"""The plain PyTorch path of the encoder: dense batches padded to the maximum length.

Same parameters and objective as the package's packed path, which it shares no code with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import pdrec_fast as pf
from bench.target import compiled, target
from pdrec_fast.data import Histories, Interactions
from pdrec_fast.fitting.optimizer import with_state

_NORM_EPS = 1e-8


@dataclass(frozen=True)
class PaddedTokens:
    """Right-aligned (input, next item) pairs of every user with at least two training records.

    Attributes:
        users: int64 [U].
        inputs, targets: int64 [U, L], 0 where there is no token; mask: bool [U, L].
        weights: float32 [U, L], of the positives.
        complete, complete_mask: int64 and bool [U, L], the inputs followed by the last target.
    """

    users: np.ndarray
    inputs: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor
    complete: torch.Tensor
    complete_mask: torch.Tensor


def pad_training(
    model: pf.PDRec, train: Interactions, preferences: pf.Preferences | None
) -> PaddedTokens:
    """Lay out the whole training set."""
    length, config = model.fitted_encoder().max_length, model.config
    counts = np.diff(train.indptr)
    users = np.flatnonzero(counts >= 2)
    # Index of the record in every column; the last column holds the second to last record.
    records = train.indptr[users + 1][:, None] - 1 - np.arange(length, 0, -1)
    mask = records >= train.indptr[users][:, None]
    targets = np.where(mask, records + 1, 0)
    weights = np.ones(mask.shape, np.float32)
    if preferences is not None and "hbr" in config.modules:
        weights[mask] = preferences.hbr_weights(train, config, length)[targets[mask]]
    tokens = [
        np.where(mask, train.items[records * mask], 0).astype(np.int64),
        np.where(mask, train.items[targets], 0).astype(np.int64),
        mask,
        weights,
    ]
    here = (torch.from_numpy(array).to(target().device) for array in tokens)
    return PaddedTokens(users, *here, *pad_histories(train.histories(users), length))


def pad_histories(histories: Histories, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last ``length`` items of every history, right-aligned: int64 and bool [B, length]."""
    records = histories.stops[:, None] - np.arange(length, 0, -1)
    mask = records >= histories.starts[:, None]
    items = np.where(mask, histories.items[records * mask], 0).astype(np.int64)
    device = target().device
    return torch.from_numpy(items).to(device), torch.from_numpy(mask).to(device)


class PaddedSASRec(nn.Module):
    """SASRec on right-aligned padded batches, from PyTorch's own layers.

    Args:
        encoder: whose weights are copied; its parameters come in the same order as these.
        dropout: of embeddings, attention weights and the feed-forward layers.
    """

    def __init__(self, encoder: pf.SASRec, dropout: float = 0.0) -> None:
        super().__init__()
        items, width = encoder.item_embedding.weight.shape
        self.max_length = encoder.max_length
        self.item_embedding = nn.Embedding(items, width)
        self.position_embedding = nn.Embedding(encoder.max_length, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in encoder.blocks)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        for mine, theirs in zip(self.parameters(), encoder.parameters(), strict=True):
            mine.data.copy_(theirs)
        self.to(target().device)

    def forward(self, items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States [B, L, width] of items [B, L]; those of padding mean nothing."""
        width, length = self.item_embedding.embedding_dim, items.shape[1]
        positions = torch.arange(self.max_length - length, self.max_length, device=items.device)
        x = self.item_embedding(items) * width**0.5 + self.position_embedding(positions)
        x = self.dropout(x)
        # Padding may look at itself, as a row of softmax over nothing would be NaN.
        itself = torch.eye(length, dtype=torch.bool, device=items.device)
        visible = mask[:, None, :] | itself
        visible = visible & torch.ones_like(itself).tril()
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)


class _Block(nn.Module):
    """One head of causal attention, then a feed-forward layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.in_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_bias = nn.Parameter(torch.empty(3 * width))
        self.query_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.out = nn.Linear(width, width)
        self.forward_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )
        self.dropout = dropout

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        queries = self.query_norm(x)
        q = F.linear(queries, self.in_weight[:width], self.in_bias[:width])
        k, v = F.linear(x, self.in_weight[width:], self.in_bias[width:]).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        x = self.forward_norm(queries + self.out(attended))
        return x + self.feed_forward(x)


def logits(config: pf.PDRecConfig, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Logits of candidate embeddings [..., k, d] given states [..., d]."""
    if config.similarity == "cosine":
        states = config.temperature * F.normalize(states, dim=-1)
        items = F.normalize(items, dim=-1)
    return (items * states[..., None, :]).sum(dim=-1)


class PaddedTraining:
    """Training of a copy of ``model``'s encoder on padded batches (paper, eqs. 4 to 6).

    Args:
        compiling: whether the objective and its gradient go through ``torch.compile``.
    """

    def __init__(
        self,
        model: pf.PDRec,
        train: Interactions,
        preferences: pf.Preferences | None,
        dropout: float,
        compiling: bool = False,
    ) -> None:
        self.config, self.preferences = model.config, preferences
        self.loss = compiled(self._loss) if compiling else self._loss
        self.encoder = PaddedSASRec(model.fitted_encoder(), dropout)
        self.tokens = pad_training(model, train, preferences)
        self.pools, self.top_items = self._guidance()
        parameters = self.encoder.parameters()
        self.optimizer = with_state(
            torch.optim.Adam(parameters, lr=self.config.lr, betas=(0.9, 0.98), fused=True)
        )

    def _guidance(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Every user's pool of safe negatives and soft positives, where modules use them."""
        if self.preferences is None:
            return None, None
        tables = self.preferences.negatives, self.preferences.top_items
        user_rows = (torch.as_tensor(table)[self.tokens.users] for table in tables)
        pools, top_items = (table.to(target().device).long() for table in user_rows)
        modules = self.config.modules
        return pools if "nns" in modules else None, top_items if "dpa" in modules else None

    def random_step(self) -> torch.Tensor:
        """One batch of random users, with negatives that are not checked for being unobserved."""
        here = {"device": self.tokens.inputs.device}
        rows = torch.randperm(len(self.tokens.users), **here)[: self.config.batch_size]
        shape = (len(rows), self.tokens.inputs.shape[1])
        items = self.encoder.item_embedding.num_embeddings
        negatives = torch.randint(items, (*shape, self.config.random_negatives), **here)
        if self.pools is not None:
            drawn = (len(rows), shape[1] * self.config.safe_negatives)
            at = torch.randint(self.pools.shape[1], drawn, **here)
            safe = self.pools[rows].gather(1, at).view(*shape, -1)
            negatives = torch.cat([negatives, safe], dim=2)
        return self.step(rows, negatives, self.config.lr)

    def step(self, rows: torch.Tensor, negatives: torch.Tensor, lr: float) -> torch.Tensor:
        """Loss of the users at ``rows`` with negatives [B, L, k], then one update."""
        self.encoder.train()
        loss = self.loss(rows, negatives)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _loss(self, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        loss = self._ranking_loss(rows, negatives)
        if self.top_items is not None:
            loss = loss + self.config.dpa_weight * self._distillation_loss(rows)
        return loss

    def _ranking_loss(self, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        tokens, mask = self.tokens, self.tokens.mask[rows]
        states = self.encoder(tokens.inputs[rows], mask)
        candidates = torch.cat([tokens.targets[rows, :, None], negatives], dim=2)
        scores = logits(self.config, states, self.encoder.item_embedding(candidates))
        n_tokens = mask.sum()
        positive = tokens.weights[rows] * F.softplus(-scores[..., 0])
        negative = F.softplus(scores[..., 1:]).mean(dim=-1)
        return ((positive + negative) * mask).sum() / n_tokens

    def _distillation_loss(self, rows: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens
        last = self.encoder(tokens.complete[rows], tokens.complete_mask[rows])[:, -1]
        soft_positives = self.top_items[rows]
        absent = soft_positives < 0
        vectors = self.encoder.item_embedding(soft_positives.clamp_min(0))
        scores = logits(self.config, last, vectors).masked_fill(absent, -torch.inf)
        best = scores.topk(self.config.dpa_top_n, dim=1).values
        present = best > -torch.inf
        losses = F.softplus(-best.masked_fill(~present, 0)) * present
        return losses.sum() / present.sum().clamp_min(1)


@torch.no_grad()
def padded_scores(
    encoder: PaddedSASRec,
    config: pf.PDRecConfig,
    histories: Histories,
    items: torch.Tensor | None,
) -> torch.Tensor:
    """Logits [B, C] of items [B, C], or [B, N] of all."""
    last = encoder(*pad_histories(histories, encoder.max_length))[:, -1]
    table = encoder.item_embedding.weight
    if items is not None:
        return logits(config, last, table[items])
    if config.similarity == "cosine":
        last = config.temperature * F.normalize(last, dim=-1)
        table = F.normalize(table, dim=-1)
    return last @ table.T
