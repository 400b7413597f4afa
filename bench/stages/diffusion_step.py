"""One training step of TI-DiffRec, and one epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from bench.data import TOY, source, split
from bench.dense import DTYPES, DenseTraining, bare_step, untrained
from bench.ops.denoising.corpus_error import loss_flops
from bench.registry import Case, Floor, Growth, Implementation, operation
from bench.target import COMPILED, target
from pdrec_fast.ops.denoising.noisy_input import noisy_input

CHECKED_STEPS = 3
ADAM_BYTES = 28  # fp32, per parameter: read it, its gradient and two moments, write three back


def _make(users: int, items: int, hidden: int, precision: str, batch_size: int = 0) -> Case:
    """An epoch; ``batch_size`` 0 makes it of one batch."""
    train = split(users, items).train
    batch_size = batch_size or users
    settings = {"hidden": (hidden,), "batch_size": batch_size, "precision": precision}

    def package():
        task = untrained(items, **settings).training_task(train)
        return lambda: task.train_epoch(0)

    def dense(compiling: bool):
        model = untrained(items, **settings)
        rows = model.inputs(train.histories()).dense()
        return DenseTraining(model, rows, compiling).noised_epoch

    # For the check a single diffusion step, as the package draws steps itself, and a rate at which
    # a wrong gradient shows in the next loss.
    checked = settings | {"batch_size": users, "steps": 1, "lr": 0.01, "lr_decay": 1.0}

    def package_losses() -> torch.Tensor:
        task = untrained(items, **checked).training_task(train)
        return torch.cat([task.train_epoch(epoch) for epoch in range(CHECKED_STEPS)])

    def reference_losses() -> torch.Tensor:
        model = untrained(items, **checked)
        rows = model.inputs(train.histories())
        training = DenseTraining(model, rows.dense())
        signal, sigma = training.signal.cpu(), training.sigma.cpu()
        losses = []
        for epoch in range(CHECKED_STEPS):
            x = noisy_input(
                rows.indptr,
                rows.items,
                rows.values,
                items,
                signal.repeat(users),
                sigma.repeat(users),
                model.config.dropout,
                seed=model.config.seed,
                epoch=epoch,
                users=np.arange(users),
                impl="reference",
            )
            steps = torch.zeros(users, dtype=torch.int64, device=training.x0.device)
            losses.append(training.step(x.to(steps.device), training.x0, steps))
        return torch.stack(losses)

    n_batches = math.ceil(users / batch_size)
    return Case(
        {
            "pdrec_fast": Implementation(package, package_losses),
            "dense eager": Implementation(partial(dense, False), reference_losses),
            "bare products + AdamW": Implementation(
                lambda: bare_step(batch_size, items, hidden, precision),
                comparable=False,
                share=1 / n_batches,
                note="five matrix products and the update of both item matrices alone",
            ),
        }
        | (_compiled(partial(dense, True)) if target().gpu else {}),
        reference="dense eager",
        floor=Floor(
            bytes=n_batches * ADAM_BYTES * 2 * items * hidden,
            flops=2 * 2 * users * items * hidden
            + n_batches * loss_flops(batch_size, items, hidden),
            dtype=precision,
        ),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        data=source(users, items),
    )


def _compiled(prepare: Callable[[], Callable]) -> dict[str, Implementation]:
    return {COMPILED: Implementation(prepare, comparable=False, slow_start=True)}


_CURVES = (
    Growth("items", (4_734, 9_467, 18_934, 37_868)),
    Growth("hidden", (125, 250, 500, 1_000)),
)
for _precision in DTYPES:
    operation(
        f"diffusion_step_{_precision}",
        "stage",
        sizes={"users": 400, "items": 37_868, "hidden": 1_000, "precision": _precision},
        small={"users": 9, "items": 301, "hidden": 13, "precision": _precision},
        growth=_CURVES if _precision == "fp32" else (),
    )(_make)
    operation(
        f"diffusion_epoch_{_precision}",
        "stage",
        gpu_sizes=({**TOY, "hidden": 1_000, "precision": _precision, "batch_size": 400},),
        small={"users": 9, "items": 301, "hidden": 13, "precision": _precision, "batch_size": 4},
    )(_make)
