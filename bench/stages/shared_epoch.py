"""One epoch of training plain SASRec with negatives that a step shares."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.data import BEAUTY, TOY, source, split
from bench.registry import Case, Floor, Implementation, operation
from bench.stages.diffusion_step import ADAM_BYTES
from bench.stages.training_epoch import encoder_flops
from bench.target import target
from pdrec_fast.training.task import PDRecTask

_CHECKED_EPOCHS = 2


def _make(users: int, items: int, width: int, negatives: int, max_length: int) -> Case:
    train = split(users, items).train

    def task(impl: str, dropout: float = 0.5, **settings: Any) -> PDRecTask:
        options = {"width": width, "dropout": dropout, "max_length": max_length}
        settings |= {"loss": "shared_softmax", "shared_negatives": negatives, "temperature": 10.0}
        model = pf.PDRec(
            "sasrec", modules=(), encoder_options=options, **settings, **target().model_options
        )
        model.encoder = model.new_encoder(items)
        made = model.training_task(train)
        made.objective = replace(made.objective, impl=impl)
        return made

    def epochs(impl: str):
        training, number = task(impl), count()
        return lambda: training.train_epoch(next(number))

    def losses(impl: str) -> torch.Tensor:
        training = task(impl, batch_size=users, dropout=0.0)  # one step, and nothing random
        return torch.cat([training.train_epoch(epoch) for epoch in range(_CHECKED_EPOCHS)])

    lengths = np.minimum(np.diff(train.indptr) - 1, max_length)
    lengths = lengths[lengths >= 1]
    n_tokens = int(lengths.sum())
    n_steps = math.ceil(len(lengths) / pf.PDRecConfig().batch_size)
    logits = 2 * n_tokens * (negatives + 1) * width
    return Case(
        {
            "pdrec_fast": Implementation(partial(epochs, "auto"), partial(losses, "auto")),
            "reference loss": Implementation(
                partial(epochs, "reference"), partial(losses, "reference")
            ),
        },
        reference="reference loss",
        floor=Floor(
            bytes=n_steps * ADAM_BYTES * items * width,
            flops=3 * (encoder_flops(lengths, width) + logits),
        ),
        rtol=1e-4,
        sizes={"tokens": n_tokens},
        data=source(users, items),
    )


_SHARED = {"negatives": 1024, "max_length": 50}
_SMALL = {"users": 30, "items": 301, "width": 8, "negatives": 64, "max_length": 17}
_TOY, _BEAUTY = TOY | _SHARED | {"width": 64}, BEAUTY | _SHARED | {"width": 128}
operation("shared_epoch", "stage", sizes=_TOY, small=_SMALL)(_make)
operation("shared_epoch_wide", "stage", sizes=_BEAUTY, small=_SMALL)(_make)
