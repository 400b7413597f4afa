"""The plain PyTorch path of the encoder: dense batches padded to the maximum length.

Same parameters and objective as the package's packed path, which it shares no code with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import pdrec_fast as pf
from pdrec_fast.data import Histories, Interactions
from pdrec_fast.fitting.optimizer import with_state
from pdrec_fast.preferences import hbr_weights


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
        weights[mask] = hbr_weights(
            np.concatenate([[0], np.cumsum(mask.sum(axis=1))]),
            preferences.observed_scores[targets[mask]],
            train.items[targets[mask]],
            rank_weight=config.hbr_rank_weight,
            clip=config.hbr_clip,
            rescale=config.hbr_rescale,
        )
    complete, complete_mask = pad_histories(train.histories(users), length)
    return PaddedTokens(
        users,
        torch.from_numpy(np.where(mask, train.items[records * mask], 0).astype(np.int64)),
        torch.from_numpy(np.where(mask, train.items[targets], 0).astype(np.int64)),
        torch.from_numpy(mask),
        torch.from_numpy(weights),
        complete,
        complete_mask,
    )


def pad_histories(histories: Histories, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last ``length`` items of every history, right-aligned: int64 and bool [B, length]."""
    records = histories.stops[:, None] - np.arange(length, 0, -1)
    mask = records >= histories.starts[:, None]
    items = np.where(mask, histories.items[records * mask], 0).astype(np.int64)
    return torch.from_numpy(items), torch.from_numpy(mask)


def encode(encoder: pf.SASRec, items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States [B, L, width] of right-aligned items [B, L]; those of padding mean nothing."""
    width, length = encoder.item_embedding.embedding_dim, items.shape[1]
    positions = torch.arange(encoder.max_length - length, encoder.max_length)
    x = encoder.item_embedding(items) * width**0.5 + encoder.position_embedding(positions)
    x = encoder.dropout(x)
    # Padding may look at itself, as a row of softmax over nothing would be NaN.
    visible = mask[:, None, :] | torch.eye(length, dtype=torch.bool)
    visible = (visible & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    for block in encoder.blocks:
        queries = block.query_norm(x)
        q = F.linear(queries, block.in_weight[:width], block.in_bias[:width])
        k, v = F.linear(x, block.in_weight[width:], block.in_bias[width:]).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (block.heads, -1)).transpose(1, 2) for t in (q, k, v))
        dropout = block.attention_dropout if encoder.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        x = block.forward_norm(queries + block.out(attended.transpose(1, 2).flatten(2)))
        x = x + block.feed_forward(x)
    return encoder.norm(x)


def logits(config: pf.PDRecConfig, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Logits of candidate embeddings [..., k, d] given states [..., d]."""
    if config.similarity == "cosine":
        states = config.temperature * F.normalize(states, dim=-1)
        items = F.normalize(items, dim=-1)
    return (items * states[..., None, :]).sum(dim=-1)


class PaddedTraining:
    """Training of a copy of ``model``'s encoder on padded batches (paper, eqs. 4 to 6)."""

    def __init__(
        self, model: pf.PDRec, train: Interactions, preferences: pf.Preferences | None
    ) -> None:
        self.config, self.preferences = model.config, preferences
        self.encoder = copy.deepcopy(model.fitted_encoder())
        self.tokens = pad_training(model, train, preferences)
        parameters = self.encoder.parameters()
        self.optimizer = with_state(
            torch.optim.Adam(parameters, lr=self.config.lr, betas=(0.9, 0.98), fused=True)
        )

    def random_step(self) -> torch.Tensor:
        """One batch of random users, with negatives that are not checked for being unobserved."""
        rows = torch.randperm(len(self.tokens.users))[: self.config.batch_size]
        shape = (len(rows), self.tokens.inputs.shape[1])
        negatives = torch.randint(
            self.encoder.item_embedding.num_embeddings, (*shape, self.config.random_negatives)
        )
        if self.preferences is not None and "nns" in self.config.modules:
            pools = torch.from_numpy(self.preferences.negatives[self.tokens.users[rows]])
            at = torch.randint(pools.shape[1], (len(rows), shape[1] * self.config.safe_negatives))
            safe = pools.gather(1, at).long().view(*shape, -1)
            negatives = torch.cat([negatives, safe], dim=2)
        return self.step(rows, negatives, self.config.lr)

    def step(self, rows: torch.Tensor, negatives: torch.Tensor, lr: float) -> torch.Tensor:
        """Loss of the users at ``rows`` with negatives [B, L, k], then one update."""
        self.encoder.train()
        loss = self._ranking_loss(rows, negatives)
        if self.preferences is not None and "dpa" in self.config.modules:
            loss = loss + self.config.dpa_weight * self._distillation_loss(rows)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _ranking_loss(self, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        tokens, mask = self.tokens, self.tokens.mask[rows]
        states = encode(self.encoder, tokens.inputs[rows], mask)
        candidates = torch.cat([tokens.targets[rows, :, None], negatives], dim=2)
        scores = logits(self.config, states, self.encoder.item_embedding(candidates))
        n_tokens = mask.sum()
        positive = tokens.weights[rows] * F.softplus(-scores[..., 0])
        negative = F.softplus(scores[..., 1:]).mean(dim=-1)
        return ((positive + negative) * mask).sum() / n_tokens

    def _distillation_loss(self, rows: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens
        last = encode(self.encoder, tokens.complete[rows], tokens.complete_mask[rows])[:, -1]
        candidates = torch.from_numpy(self.preferences.top_items[tokens.users[rows]]).long()
        absent = candidates < 0
        vectors = self.encoder.item_embedding(candidates.clamp_min(0))
        scores = logits(self.config, last, vectors).masked_fill(absent, -torch.inf)
        best = scores.topk(self.config.dpa_top_n, dim=1).values
        present = best > -torch.inf
        return F.softplus(-best[present]).sum() / present.sum().clamp_min(1)


@torch.no_grad()
def padded_scores(
    model: pf.PDRec, histories: Histories, items: torch.Tensor | None
) -> torch.Tensor:
    """``model.scores`` by padding: [B, C] for items [B, C], or [B, N]."""
    encoder = model.fitted_encoder().eval()
    last = encode(encoder, *pad_histories(histories, encoder.max_length))[:, -1]
    table = encoder.item_embedding.weight
    if items is not None:
        return logits(model.config, last, table[items])
    if model.config.similarity == "cosine":
        last = model.config.temperature * F.normalize(last, dim=-1)
        table = F.normalize(table, dim=-1)
    return last @ table.T
