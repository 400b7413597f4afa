"""One training step of TI-DiffRec."""

from __future__ import annotations

import numpy as np
import torch

from bench.data import source, split
from bench.dense import DTYPES, DenseTraining, bare_step, untrained
from bench.ops.corpus_error import loss_flops
from bench.registry import Case, Floor, Growth, Implementation, operation
from pdrec_fast.diffusion.fit import DiffusionFit
from pdrec_fast.ops.noisy_input import noisy_input

CHECKED_STEPS = 3
ADAM_BYTES = 28  # fp32, per parameter: read it, its gradient and two moments, write three back


def _make(users: int, items: int, hidden: int, precision: str) -> Case:
    train = split(users, items).train
    settings = {"hidden": (hidden,), "batch_size": users, "precision": precision}

    def package():
        fit = DiffusionFit(untrained(items, **settings), train, None)
        return lambda: fit.train_epoch(0)  # an epoch of one batch

    def reference():
        model = untrained(items, **settings)
        return DenseTraining(model, model.inputs(train.histories()).dense()).noised_step

    # For the check a single diffusion step, as the package draws steps itself, and a rate at which
    # a wrong gradient shows in the next loss.
    checked = settings | {"steps": 1, "lr": 0.01, "lr_decay": 1.0}

    def package_losses() -> torch.Tensor:
        fit = DiffusionFit(untrained(items, **checked), train, None)
        return torch.cat([fit.train_epoch(epoch) for epoch in range(CHECKED_STEPS)])

    def reference_losses() -> torch.Tensor:
        model = untrained(items, **checked)
        rows = model.inputs(train.histories())
        training = DenseTraining(model, rows.dense())
        losses = []
        for epoch in range(CHECKED_STEPS):
            x = noisy_input(
                rows.indptr,
                rows.items,
                rows.values,
                items,
                training.signal.repeat(users),
                training.sigma.repeat(users),
                model.config.dropout,
                seed=model.config.seed,
                epoch=epoch,
                users=np.arange(users),
                impl="reference",
            )
            losses.append(training.step(x, torch.zeros(users, dtype=torch.int64)))
        return torch.stack(losses)

    return Case(
        {
            "pdrec_fast": Implementation(package, package_losses),
            "dense eager": Implementation(reference, reference_losses),
            "bare products + AdamW": Implementation(
                lambda: bare_step(users, items, hidden, precision),
                comparable=False,
                note="five matrix products and the update of both item matrices alone",
            ),
        },
        reference="dense eager",
        floor=Floor(
            bytes=ADAM_BYTES * 2 * items * hidden,
            flops=2 * 2 * users * items * hidden + loss_flops(users, items, hidden),
            dtype=precision,
        ),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        data=source(users, items),
    )


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
