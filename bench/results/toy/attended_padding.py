"""What it costs SASRec to attend to padding, as the paper's released code does.

    python attended_padding.py toy.inter
    python attended_padding.py toy.inter --modules hbr,dpa,nns --diffusion runs/diffusion

prints the metrics. The model is this package's SASRec over sequences padded on the left to 200,
where a padded place embeds as zeros, after every block too. It is held against SASRec itself, on
packed sequences: ``pdrec-fast run --preset toy --set pdrec.epochs=24``, with the same modules.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import pdrec_fast as pf
from pdrec_fast.encoders.base import xavier_init

LENGTH, WIDTH, DROPOUT = 200, 64, 0.2


class Block(nn.Module):
    """As in ``pdrec_fast.encoders.sasrec``, on padded states [B, L, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.forward_norm = (nn.LayerNorm(WIDTH, eps=1e-8) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.hidden, self.forward_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        queries = self.query_norm(x)
        scores = self.query(queries) @ self.key(x).transpose(1, 2) / WIDTH**0.5
        weights = self.dropout(scores.masked_fill(~allowed, -torch.inf).softmax(dim=2))
        x = self.forward_norm(queries + self.out(weights @ self.value(x)))
        return x + self.dropout(self.forward_out(F.relu(self.dropout(self.hidden(x)))))


class PaddedSASRec(nn.Module):
    """Item ids [B, L], 0 for padding -> states [B, L, width]."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_rows, WIDTH)
        self.position_embedding = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.dropout = nn.LayerNorm(WIDTH, eps=1e-8), nn.Dropout(DROPOUT)
        xavier_init(self)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        real = (ids > 0)[..., None]
        earlier = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()  # padding among them
        x = self.item_embedding(ids) * WIDTH**0.5 + self.position_embedding.weight
        x = self.dropout(x) * real
        for block in self.blocks:
            x = block(x, earlier) * real
        return self.norm(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--modules", default="none")
    parser.add_argument("--diffusion", help="directory of a run with a diffusion model")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = pf.leave_one_out(pf.Interactions.from_file(args.data))
    modules = () if args.modules == "none" else tuple(args.modules.split(","))
    preset = pf.PRESETS["toy"]
    config = replace(preset.pdrec, modules=modules, epochs=args.epochs, seed=args.seed)
    preferences = None
    if modules:
        preferences = pf.Preferences.infer(
            pf.DiffRec.load(Path(args.diffusion) / "diffusion"),
            split.train,
            top_m=preset.top_m,
            omega_m=preset.omega_m,
            seed=args.seed,
        )

    def encoder(n_items: int) -> nn.Module:
        return pf.PaddedEncoder(PaddedSASRec(n_items + 1), max_length=LENGTH, side="left")

    model = pf.PDRec(encoder, config).fit(split, preferences)
    results = model.evaluate(split)
    print(args, results, flush=True)


main()
