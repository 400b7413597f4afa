"""One epoch of training SASRec, plain and guided by all of PDRec's modules."""

from __future__ import annotations

import math
from functools import cache, partial
from itertools import count
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.data import TOY, equally_long, source, split
from bench.dense import untrained
from bench.padded import PaddedTraining
from bench.registry import Case, Floor, Growth, Implementation, operation
from bench.stages.diffusion_step import ADAM_BYTES
from bench.target import COMPILED, target
from pdrec_fast.training import MODULES

CHECKED_EPOCHS, PADDED_BATCHES = 3, 2
RECORDED = "pdrec_fast, CUDA graphs"
BLOCKS, WIDTH, DROPOUT = 2, 64, 0.2


def _make(
    modules: tuple[str, ...], users: int, items: int, max_length: int, length: int | None = None
) -> Case:
    """``length`` gives all users that many inputs; without it their lengths are the data's."""
    train = equally_long(users, items, length + 1) if length else split(users, items).train
    guidance = _guidance(users, items, length) if modules else None
    checked = {"batch_size": users, "dropout": 0.0}  # an epoch of one batch, and nothing random

    def model(dropout: float = DROPOUT, **settings: Any) -> pf.PDRec:
        options = {"max_length": max_length, "width": WIDTH, "blocks": BLOCKS, "dropout": dropout}
        settings |= target().model_options
        made = pf.PDRec("sasrec", modules=modules, encoder_options=options, **settings)
        made.encoder = made.new_encoder(items)
        return made

    def package(**options: bool):
        task = model(**options).training_task(train, guidance)
        epochs = count()  # each has its own order of users and so its own shapes of batches
        return lambda: task.train_epoch(next(epochs))

    def padded(compiling: bool):
        training = PaddedTraining(model(), train, guidance, DROPOUT, compiling)
        return lambda: [training.random_step() for _ in range(n_timed)]

    def package_losses(**options: bool) -> torch.Tensor:
        task = model(**checked, **options).training_task(train, guidance)
        return torch.cat([task.train_epoch(epoch) for epoch in range(CHECKED_EPOCHS)])

    def padded_losses() -> torch.Tensor:
        training = PaddedTraining(model(**checked), train, guidance, 0.0)
        draws = model(**checked).training_task(train, guidance)
        mask, config = training.tokens.mask, training.config
        losses = []
        for epoch in range(CHECKED_EPOCHS):
            drawn = torch.from_numpy(draws.batches.guidance.token_negatives(epoch)).to(mask.device)
            negatives = drawn.new_zeros(*mask.shape, drawn.shape[1])
            negatives[mask] = drawn
            lr = config.lr * config.lr_decay**epoch
            rows = torch.arange(len(mask), device=mask.device)
            losses.append(training.step(rows, negatives, lr))
        return torch.stack(losses)

    lengths = np.minimum(np.diff(train.indptr) - 1, max_length)
    lengths = lengths[lengths >= 1]
    config = pf.PDRecConfig(modules=modules)
    n_batches = math.ceil(len(lengths) / config.batch_size)
    n_timed = min(PADDED_BATCHES, n_batches)
    scaled: dict[str, Any] = {
        "share": n_timed / n_batches,
        "note": f"{n_timed} of {n_batches} batches, scaled; negatives unchecked",
    }
    rows = {
        "pdrec_fast": Implementation(package, package_losses),
        "padded": Implementation(partial(padded, False), padded_losses, **scaled),
    }
    if target().device.type == "cuda":
        graphs = {"cuda_graphs": True}
        rows[RECORDED] = Implementation(
            partial(package, **graphs), partial(package_losses, **graphs), slow_start=True
        )
    if target().gpu:
        rows[COMPILED] = Implementation(
            partial(padded, True), comparable=False, slow_start=True, **scaled
        )
    return Case(
        rows,
        reference="padded",
        floor=Floor(
            bytes=n_batches * ADAM_BYTES * items * WIDTH, flops=_epoch_flops(lengths, modules)
        ),
        rtol=1e-4,
        sizes={"tokens": int(lengths.sum())},
        data=source(users, items) if length is None else "uniform items, equal lengths",
    )


@cache
def _guidance(users: int, items: int, length: int | None) -> pf.Preferences:
    """Preferences of a small untrained diffusion: training takes as long with them as with any."""
    train = equally_long(users, items, length + 1) if length else split(users, items).train
    return pf.Preferences.infer(untrained(items, hidden=(8,)), train, top_m=50, progress=False)


def _epoch_flops(lengths: np.ndarray, modules: tuple[str, ...]) -> float:
    """Forward and backward products, without padding and the masked half of attention."""
    encoder = encoder_flops(lengths)
    candidates = (3 if "nns" in modules else 2) * 2 * WIDTH * lengths.sum()
    distillation = 0.0
    if "dpa" in modules:
        distillation = last_state_flops(lengths + 1) + 50 * 2 * WIDTH * len(lengths)
    return 3 * float(encoder + candidates + distillation)


def encoder_flops(lengths: np.ndarray, width: int = WIDTH) -> float:
    """Products of SASRec's forward pass over sequences of these lengths."""
    dense, attention = _DENSE_LAYERS * (width / WIDTH) ** 2, _ATTENTION * width / WIDTH
    return BLOCKS * (dense * lengths.sum() + attention * (lengths * (lengths + 1) / 2).sum())


def last_state_flops(lengths: np.ndarray) -> float:
    """The same for last states alone, which need no more than keys and values of the last block."""
    others, users = lengths.sum() - len(lengths), len(lengths)
    last_block = _DENSE_LAYERS * (users + others / 3) + _ATTENTION * lengths.sum()
    return encoder_flops(lengths) * (BLOCKS - 1) / BLOCKS + last_block


_DENSE_LAYERS = 6 * 2 * WIDTH**2  # per token: query, key, value, output and two feed-forward layers
_ATTENTION = 2 * 2 * WIDTH  # per pair of tokens: a score and its share of the output
_SIZES = {**TOY, "max_length": 200}
_SMALL = {"users": 30, "items": 301, "max_length": 17}
operation(
    "sasrec_epoch",
    "stage",
    sizes=_SIZES,
    gpu_sizes=(_SIZES,),
    small=_SMALL,
    growth=(
        Growth("users", (500, 1_000, 2_000, 4_000)),
        Growth("length", (25, 50, 100, 200), {"users": 512}),
    ),
)(partial(_make, ()))
operation("pdrec_epoch", "stage", sizes=_SIZES, gpu_sizes=(_SIZES,), small=_SMALL)(
    partial(_make, MODULES)
)
