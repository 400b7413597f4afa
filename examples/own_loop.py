"""PDRec's weights, positives and negatives in a plain PyTorch training loop.

The model and the loop are anybody's: a GRU over padded sequences, trained plainly and with PDRec's
guidance, and both tested. ``python examples/own_loop.py`` takes half a minute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import pdrec_fast as pf

LENGTH, WIDTH = 30, 48  # longest sequence, width of the model
OBJECTIVE = pf.Objective("cosine", temperature=5.0)


class Recurrent(nn.Module):
    """A model of one's own; it is a ``Scorer``, so ``pf.evaluate`` tests it."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.gru(self.table(items.clamp_min(0)))[0]  # [B, L] -> [B, L, WIDTH]

    def scores(self, histories: pf.Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        states = last_states(self, padded(histories, LENGTH))
        if items is None:
            items = torch.arange(len(self.table.weight)).expand(len(states), -1)
        return OBJECTIVE.logits(states, self.table.weight, items)


def padded(histories: pf.Histories, length: int) -> torch.Tensor:
    """The latest items of every history, int64 [B, <= length], -1 after them."""
    indptr, items, _ = histories.packed()
    rows = [torch.from_numpy(row[-length:]).long() for row in np.split(items, indptr[1:-1])]
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def last_states(model: Recurrent, items: torch.Tensor) -> torch.Tensor:
    return model(items)[torch.arange(len(items)), (items >= 0).sum(1) - 1]


def train(split: pf.Split, guidance: pf.Guidance, epochs: int, seed: int = 0) -> Recurrent:
    torch.manual_seed(seed)
    model, config = Recurrent(split.train.n_items), guidance.config
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    users = torch.from_numpy(np.flatnonzero(np.diff(split.train.indptr) >= 2))
    sequences = padded(split.train.histories(users.numpy()), LENGTH + 1)
    for epoch in range(epochs):
        for rows in torch.randperm(len(users)).split(config.batch_size):
            items, owners, table = sequences[rows], users[rows], model.table.weight
            nexts = items[:, 1:]
            real = nexts >= 0
            # The positives first, then the random and the safe negatives (NNS).
            negatives = guidance.negatives(owners, nexts, epoch)
            ranked = torch.cat([nexts[..., None], negatives], dim=2)[real]
            weights = guidance.weights(owners, nexts)[real]  # HBR
            loss = OBJECTIVE.ranking(model(items[:, :-1])[real], table, ranked, weights)
            if "dpa" in config.modules:
                states, soft = last_states(model, items), guidance.soft_positives(owners)
                distilled = OBJECTIVE.distillation(states, table, soft, config.dpa_top_n)
                loss = loss + config.dpa_weight * distilled
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def main(n_users: int = 800, epochs: int = 20) -> dict[str, pf.Results]:
    split = pf.leave_one_out(pf.synthetic(n_users=n_users, n_items=900))
    preset = pf.PRESETS["default"]
    scorer = pf.DiffRec(preset.diffusion).fit(split, progress=False)
    preferences = pf.Preferences.infer(scorer, split.train, progress=False)
    results = {}
    for name, modules in (("GRU", ()), ("GRU with PDRec", ("hbr", "dpa", "nns"))):
        config = replace(preset.pdrec, modules=modules, loss="bce", lr=5e-3)
        guidance = pf.Guidance(split.train, preferences, config, max_length=LENGTH)
        results[name] = pf.evaluate(train(split, guidance, epochs), split, on=["test"])
    print(pf.format_results(results))
    return results


if __name__ == "__main__":
    main()
