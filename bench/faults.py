"""Injects what is no number into trainings and models, and says what came of it::

    python -m bench.faults --out build/faults.csv

Every parameter of every encoder, of the diffusion models and of the other guides becomes NaN or
infinite in the midst of its training, one place at a time; every one is trained with learning
rates that are far too high. What is allowed is one line that says where, or a model of numbers
alone, whose scores are numbers; anything else is a fault, and the exit status is 1 then. ``--only``
takes those whose names begin so, such as "sasrec, bce".
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.training.config import Loss

RATES = (1.0, 10.0, 1e3, 1e6, 1e12, 1e25)
VALUES = (math.nan, math.inf, -math.inf)
_SMALL: dict[str, Any] = {"epochs": 3, "select_by": "full", "device": "cpu"}
_OTHERS: dict[str, Callable[..., Any]] = {
    "diffusion": lambda **own: pf.DiffRec(hidden=(8,), **_SMALL | own),
    "diffusion, two layers": lambda **own: pf.DiffRec(hidden=(8, 8), **_SMALL | own),
    "multinomial": lambda **own: pf.DiffRec(hidden=(8,), likelihood="multinomial", **_SMALL | own),
    "codigem": lambda **own: pf.Codigem(hidden=(8, 8), **_SMALL | own),
    "l-diffrec": lambda **own: pf.LatentDiffRec(**_SMALL | own),
}


def makers() -> dict[str, Callable[..., Any]]:
    """By name: what makes a model that is not yet fitted, with settings."""
    found: dict[str, Callable[..., Any]] = {}
    for name in ENCODERS:
        for loss in get_args(Loss):
            for similarity in ("cosine", "dot"):
                found[f"{name}, {loss}, {similarity}"] = _encoder(name, loss, similarity)
    return found | _OTHERS


def _encoder(name: str, loss: Any, similarity: Any) -> Callable[..., Any]:
    def make(**own: Any) -> pf.PDRec:
        given = {"modules": (), "loss": loss, "similarity": similarity}
        return pf.PDRec(name, **_SMALL | given | own)

    return make


def outcome(model: Any, split: pf.Split, act: Callable[[Any], None] | None = None) -> str:
    """``"refused: ..."``, ``"numbers"`` or ``"FAULT: ..."``.

    Args:
        act: called with the model after the second epoch.
    """

    def spoil(history: Any) -> None:
        if act is not None and history.epochs == 2:
            act(model)

    try:
        model.fit(split, progress=False, on_epoch_end=spoil)
        scores = model.scores(split.test.histories)
        model.contents()
    except pf.PDRecError as error:
        text = str(error)
        return f"refused: {text}" if text.isprintable() else f"FAULT: two lines: {text}"
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {error}"
    network = _network(model)
    whole = all(weight.isfinite().all() for weight in network.parameters())
    if act is None and whole and not scores.isnan().any():
        return "numbers"
    return "FAULT: trained on" if act else "FAULT: a model or scores of none"


def _network(model: Any) -> torch.nn.Module:
    for name in ("encoder", "denoiser", "network"):
        if isinstance(found := getattr(model, name, None), torch.nn.Module):
            return found
    raise TypeError(f"{type(model).__name__} has no network")


def tried(name: str, make: Callable[..., Any], split: pf.Split) -> Iterator[tuple[str, str, str]]:
    """(model, what was done to it, outcome)."""
    for rate in RATES:
        yield name, f"lr={rate:g}", outcome(make(lr=rate), split)
    model = make(epochs=1)
    model.fit(split, progress=False)
    for key, parameter in _network(model).named_parameters():
        for value in VALUES:
            place = int(np.random.default_rng(0).integers(parameter.numel()))

            def spoil(fitting: Any, key: str = key, value: float = value, at: int = place) -> None:
                dict(_network(fitting).named_parameters())[key].data.view(-1)[at] = value

            yield name, f"{key}[{place}]={value}", outcome(make(), split, spoil)


def main() -> int:
    """Try all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", metavar="NAME", help="models whose names begin so")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a CSV file of all outcomes")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    split = pf.leave_one_out(pf.synthetic(n_users=60, n_items=150, seed=1))
    rows, n_faults = [], 0
    for name, make in makers().items():
        if not name.startswith(given.only or ""):
            continue
        found = list(tried(name, make, split))
        faults = [row for row in found if row[2].startswith("FAULT")]
        rows += found
        n_faults += len(faults)
        print(f"{name:32}{len(found):>5} tried {len(faults):>3} faults", flush=True)
        for _, what, text in faults:
            print(f"  {what}: {text}", flush=True)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("w", newline="") as stream:
            csv.writer(stream).writerows([("model", "what", "outcome"), *rows])
    print(f"{'in all':32}{len(rows):>5} tried {n_faults:>3} faults")
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
