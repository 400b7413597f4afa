"""What every process of a test's mesh does: ``worker.py JOB USERS ITEMS OUT``; the first one saves
what it found."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import pdrec_fast as pf
from pdrec_fast.training.task import PDRecTask

SMALL: dict[str, Any] = {"hidden": (16,), "epochs": 2, "lr": 1e-3, "batch_size": 64, "seed": 3}
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "lr": 0.01,
    "batch_size": 50,
    "min_steps": 1,
    "seed": 2,  # of 1, a unit of CL4SRec stands at its kink, and rounding decides its side
    "shared_negatives": 64,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "sasrec": {"modules": (), "loss": "shared_softmax", "clip_norm": 0.05, "weight_decay": 0.1},
    "sasrec guided": {"modules": ("hbr", "dpa", "nns"), "loss": "bce", "table_optimizer": "rows"},
    "sasrec gbce": {"modules": (), "loss": "gbce"},
    "cl4srec": {"modules": (), "loss": "shared_softmax", "learn_temperature": True},
    "bert4rec": {"modules": ("dpa",), "loss": "shared_softmax"},
    "hstu": {"modules": (), "loss": "shared_softmax"},
    "gru4rec": {"modules": ("hbr",), "loss": "corpus_softmax"},
    "own": {"modules": (), "loss": "softmax", "weight_decay": 0.1},
}


class Own(nn.Module):
    """An encoder of a user's own: a state is the mean of an item and the one before."""

    max_length = 20

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_items, 8)
        self.without_gradient = nn.Parameter(torch.ones(8))  # which no weight decay may touch

    def forward(self, batch: pf.PackedSequences) -> torch.Tensor:
        items = self.item_embedding(batch.items)
        first = torch.zeros(len(items), 1)
        first[batch.indptr[:-1]] = 1
        return (items + items.roll(1, 0) * (1 - first)) / 2


def data() -> pf.Split:
    # Odd numbers, and last steps that are too short for four processes.
    return pf.leave_one_out(pf.synthetic(n_users=202, n_items=157, seed=0))


def with_smooth_steps() -> None:
    """Adam makes a whole step of a gradient that is no more than rounding, unless its eps is as
    large as gradients are."""
    new_optimizer = PDRecTask._new_optimizer

    def smooth(task: PDRecTask) -> torch.optim.Adam | torch.optim.AdamW:
        optimizer = new_optimizer(task)
        for group in optimizer.param_groups:
            group["eps"] = 0.01
        return optimizer

    PDRecTask._new_optimizer = smooth  # type: ignore[method-assign]


def history(model: Any) -> dict[str, Any]:
    return {"losses": model.history.losses, "validations": model.history.validations}


def trainings(mesh: pf.Mesh, split: pf.Split) -> dict[str, Any]:
    """Every model that trains over a mesh: its curves and weights."""
    found: dict[str, Any] = {}
    with_smooth_steps()
    alone = pf.DiffRec(**SMALL).fit(split, progress=False)
    keys = {"top_m": 10, "n_draws": 32, "block_size": 16, "progress": False}
    preferences = pf.Preferences.infer(alone, split.train, **keys, mesh=mesh)
    found["preferences"] = {
        name: np.asarray(getattr(preferences, name))
        for name in ("observed_scores", "top_items", "threshold_items", "negatives")
    } | {"fingerprint": preferences.fingerprint()}
    found["evaluation"] = pf.evaluate(alone, split, mesh=mesh)
    diffusion = pf.DiffRec(**SMALL).fit(split, mesh=mesh, progress=False)
    found["diffusion"] = history(diffusion), diffusion.denoiser.state_dict()
    found["diffusion, evaluation"] = pf.evaluate(diffusion, split, mesh=mesh)
    later = {"target": "later", "likelihood": "multinomial", "noise": "mask", "dropout": 0.3}
    model = pf.DiffRec(**SMALL, **later).fit(split, mesh=mesh, progress=False)
    found["multinomial"] = history(model), model.denoiser.state_dict()
    codigem = pf.Codigem(epochs=1, batch_size=64).fit(split, mesh=mesh, progress=False)
    found["codigem"] = history(codigem), codigem.network.state_dict()
    for name, settings in ENCODERS.items():
        encoder = Own if name == "own" else name.split()[0]
        model = pf.PDRec(encoder, **SETTINGS | settings)
        model.fit(split, preferences if settings["modules"] else None, mesh=mesh, progress=False)
        found[name] = history(model), model.encoder.state_dict()
    guides = {"linear": pf.LinearDenoiser().fit(split.train)}
    fused = pf.PDRec("sasrec", **SETTINGS, modules=("fusion",))
    fused.fit(split, guides=guides, mesh=mesh, progress=False)
    found["shares"] = {name: vars(share) for name, share in fused.fusion.shares.items()}
    return found


def a_run(mesh: pf.Mesh, out: Path, dies_in: int | None = None) -> dict[str, Any]:
    """A whole run; the last process dies in the encoder's epoch ``dies_in``."""
    train = PDRecTask.train_epoch

    def train_epoch(task: PDRecTask, epoch: int) -> torch.Tensor:
        if epoch == dies_in and mesh.rank == mesh.all.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(task, epoch)

    PDRecTask.train_epoch = train_epoch  # type: ignore[method-assign]
    config = pf.RunConfig.from_preset("default", seed=0, modules=("hbr", "dpa", "nns", "fusion"))
    config = pf.with_settings(
        config,
        {f"diffusion.{name}": value for name, value in SMALL.items() if name != "hidden"}
        | {f"pdrec.{name}": value for name, value in SETTINGS.items()}
        | {"diffusion.hidden": 16, "pdrec.epochs": 4, "n_draws": 32, "encoder.width": 16},
    )
    return pf.run(data().data, config, out=out, progress=False, mesh=mesh).metrics


def costs(mesh: pf.Mesh) -> dict[str, Any]:
    """Bytes that an epoch of both models sums over processes, by their number, and keeps."""
    split = pf.leave_one_out(pf.synthetic(n_users=512, n_items=1003, seed=0))
    summed: dict[int, int] = {}
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, **given: Any) -> Any:
        size = dist.get_world_size(given["group"])
        summed[size] = summed.get(size, 0) + tensor.numel() * tensor.element_size()
        return all_reduce(tensor, **given)

    dist.all_reduce = counted
    diffusion = pf.DiffRec(hidden=(64,), batch_size=256, epochs=1, seed=0, device="cpu")
    diffusion.denoiser = diffusion.new_denoiser(split.train.item_ids)
    model = pf.PDRec("sasrec", modules=(), loss="shared_softmax", batch_size=128, min_steps=1)
    model.encoder = model.encoder_for(split)
    found = {}
    for name, kind in {"diffusion": diffusion, "encoder": model}.items():
        task = kind.training_task(split.train, mesh=mesh)
        summed.clear()
        losses = task.train_epoch(0)
        numbers = sum(p.numel() for group in task.optimizer.param_groups for p in group["params"])
        found[name] = {"steps": len(losses), "summed": dict(summed), "numbers": numbers}
    items = np.unique(split.train.items)
    own = task.encoder.item_embedding.weight.numel()
    found["encoder"] |= {"layers": numbers - own, "rows": len(items)}
    return found


def failures(users: int, items: int) -> list[str]:
    """What a training raises here that fails on one process, or is not the same on all; each over
    a mesh of its own."""
    split = pf.leave_one_out(pf.synthetic(n_users=30, n_items=120, seed=0))

    def refuse(history: pf.History) -> None:
        raise ValueError(f"after {history.epochs}")

    found = []
    for settings in ({"on_epoch_end": refuse}, {"seeds": True}, {}):
        with pf.Mesh(users, items, device="cpu") as mesh:
            seed = mesh.rank if settings.pop("seeds", False) else 0
            model = pf.DiffRec(hidden=(4,), epochs=2, seed=seed, select_by="full")
            try:
                model.fit(split, progress=False, mesh=mesh, **settings)
                found.append("fitted")
            except (pf.PDRecError, ValueError) as error:
                found.append(f"{type(error).__name__}: {error}")
    return found


def main() -> None:
    job, users, items, out = sys.argv[1:]
    torch.set_num_threads(1)
    if job == "failures":
        print(json.dumps(failures(int(users), int(items))))
        return
    with pf.Mesh(int(users), int(items), device="cpu") as mesh:
        if job in ("trainings", "costs"):
            found = trainings(mesh, data()) if job == "trainings" else costs(mesh)
            if mesh.is_first:
                torch.save(found, out)
            return
        try:
            metrics = a_run(mesh, Path(out), 2 if job == "dying run" else None)
        except pf.RankLostError as error:
            print(f"lost: {error}")
            return
        if mesh.is_first:
            print(json.dumps(metrics["protocols"]))


if __name__ == "__main__":
    main()
