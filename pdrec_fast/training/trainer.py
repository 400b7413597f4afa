"""Training of a sequence encoder guided by PDRec's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.histories import token_indices
from pdrec_fast.data.sequences import pack
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting.loop import epoch_seed
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.fitting.table_gradient import TableGradient, sparse_gradient
from pdrec_fast.preferences import Preferences, hbr_weights
from pdrec_fast.training.negatives import RandomNegatives

if TYPE_CHECKING:
    from pdrec_fast.training.pdrec import PDRec

_COMPLETE = 1 << 31  # beyond the users, within the 32 bits of a random key


class TrainingTokens:
    """Every (input, next item) pair of the training data, and what the modules attach to each.

    User i (of those with at least two training records) has the tokens
    ``starts[i] : starts[i] + lengths[i]``; all arrays below are [n_tokens] in that order.
    """

    def __init__(self, train: Interactions, max_length: int) -> None:
        histories = train.histories()
        histories = histories[np.flatnonzero(histories.lengths >= 2)]
        if not len(histories):
            raise DataError("no user has two training records: there is no next item to learn")
        self.users = histories.users
        self.lengths = np.minimum(histories.lengths - 1, max_length)
        self.starts = np.cumsum(self.lengths) - self.lengths
        stops = histories.stops - 1
        self.inputs = replace(histories, starts=stops - self.lengths, stops=stops)
        # Complete sequences, with the last positive: what DPA's last state has read. As users they
        # are others, so that their dropout is not that of the inputs again.
        self.inputs_and_complete = replace(
            histories,
            users=np.concatenate([self.users, _COMPLETE + self.users]),
            starts=np.concatenate([self.inputs.starts, histories.starts]),
            stops=np.concatenate([self.inputs.stops, histories.stops]),
        )
        self.target_records = token_indices(self.inputs.starts + 1, self.lengths)
        self.targets = train.items[self.target_records].astype(np.int64)
        self.token_users = np.repeat(self.users, self.lengths)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def indptr(self) -> np.ndarray:
        return np.append(self.starts, len(self.targets))


def check_trainable(train: Interactions, max_length: int) -> None:
    """Raise the DataError that training would raise, before anything else is done."""
    TrainingTokens(train, max_length)
    RandomNegatives(train)


class PDRecFit:
    """Training of one ``PDRec``; see ``fitting.loop.Fit``."""

    def __init__(
        self,
        model: PDRec,
        train: Interactions,
        preferences: Preferences | None,
        evaluator: Evaluator | None,
    ) -> None:
        self.model, self.config, self.evaluator = model, model.config, evaluator
        self.encoder = model.fitted_encoder()
        self.preferences = preferences
        self.tokens = TrainingTokens(train, self.encoder.max_length)
        self.random = RandomNegatives(train)
        self.weights_per_token: torch.Tensor | None = None
        if preferences is not None and "hbr" in self.config.modules:
            weights = hbr_weights(
                self.tokens.indptr,
                preferences.observed_scores[self.tokens.target_records],
                self.tokens.targets,
                rank_weight=self.config.hbr_rank_weight,
                clip=self.config.hbr_clip,
                rescale=self.config.hbr_rescale,
            )
            self.weights_per_token = torch.from_numpy(weights)
        self.objective = replace(model.objective, sparse_grad=True)
        self.table_gradient = TableGradient(self.encoder.item_embedding.weight)
        self.optimizer = with_state(
            torch.optim.Adam(
                self.encoder.parameters(), lr=self.config.lr, betas=(0.9, 0.98), fused=True
            )
        )

    def train_epoch(self, epoch: int) -> torch.Tensor:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay**epoch
        negatives = torch.from_numpy(self.negatives(epoch))
        self.encoder.train()
        losses = []
        with torch.random.fork_rng(devices=[]), sparse_gradient(self.encoder.item_embedding):
            torch.manual_seed(epoch_seed(config.seed, epoch))
            order = torch.randperm(len(self.tokens)).numpy()
            for start in range(0, len(order), config.batch_size):
                users = order[start : start + config.batch_size]
                loss = self.batch_loss(users, negatives, epoch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.table_gradient.collect()
                self.optimizer.step()
                losses.append(loss.detach())
        return torch.stack(losses)

    def negatives(self, epoch: int) -> np.ndarray:
        """Random, then (with NNS) safe negatives of every token: int64 [n_tokens, k]."""
        config, tokens = self.config, self.tokens
        drawn = self.random.draw(
            tokens.token_users, config.random_negatives, seed=config.seed, epoch=epoch
        )
        if self.preferences is None or "nns" not in config.modules:
            return drawn
        safe = safe_negatives(
            self.preferences, tokens, config.safe_negatives, seed=config.seed, epoch=epoch
        )
        return np.concatenate([drawn, safe], axis=1)

    def batch_loss(self, users: np.ndarray, negatives: torch.Tensor, epoch: int) -> torch.Tensor:
        """The objective (eq. 6) of a batch of users, given as rows of ``tokens``.

        DPA's sequences are the inputs and one item more. They are encoded in the same call: at
        these sizes its fixed costs count.
        """
        config, tokens = self.config, self.tokens
        guided = self.preferences is not None and "dpa" in config.modules
        histories = tokens.inputs[users]
        if guided:
            histories = tokens.inputs_and_complete[np.concatenate([users, len(tokens) + users])]
        batch = pack(histories, self.encoder.max_length, seed=config.seed, epoch=epoch)
        states, table = self.encoder(batch), self.encoder.item_embedding.weight
        ranked = np.flatnonzero(batch.sources < len(users))
        rows = users[batch.sources[ranked]]
        lengths = tokens.lengths[rows]
        at = torch.from_numpy(token_indices(tokens.starts[rows], lengths))
        inputs = states
        if guided:
            inputs = states[torch.from_numpy(token_indices(batch.indptr.numpy()[ranked], lengths))]
        items = torch.cat([torch.from_numpy(tokens.targets)[at, None], negatives[at]], dim=1)
        weights = None if self.weights_per_token is None else self.weights_per_token[at]
        loss = self.objective.ranking(inputs, table, items, weights)
        if self.preferences is not None and guided:
            complete = np.flatnonzero(batch.sources >= len(users))
            rows = users[batch.sources[complete] - len(users)]
            candidates = self.preferences.top_items[tokens.users[rows]].astype(np.int64)
            last = states[batch.last[torch.from_numpy(complete)]]
            loss = loss + config.dpa_weight * self.objective.distillation(
                last, table, torch.from_numpy(candidates), config.dpa_top_n
            )
        return loss

    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.ndcg_at_10(self.model, self.config.select_by)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.encoder.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.encoder.load_state_dict(weights)

    def state(self) -> dict[str, torch.Tensor]:
        return optimizer_state(self.optimizer, self.encoder)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self.optimizer, self.encoder, state)


def safe_negatives(
    preferences: Preferences, tokens: TrainingTokens, n: int, *, seed: int, epoch: int
) -> np.ndarray:
    """The next ``n`` draws of every token from its user's table (NNS): int64 [n_tokens, n].

    A user's table is consumed in order from a place that depends on the seed, epoch after epoch,
    and begins again at its end.
    """
    table = preferences.negatives
    size = table.shape[1]
    # Far along the counter: its beginning gives the random negatives of epoch 0.
    generator = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, 1]))
    offsets = generator.integers(size, size=len(table))
    lengths = np.repeat(tokens.lengths, tokens.lengths)
    place = np.arange(len(tokens.targets)) - np.repeat(tokens.starts, tokens.lengths)
    draw = (epoch * lengths + place)[:, None] * n + np.arange(n)
    users = tokens.token_users[:, None]
    return table[users, (offsets[users] + draw) % size].astype(np.int64)
