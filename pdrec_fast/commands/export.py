"""The command ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pdrec_fast import options as opt
from pdrec_fast.commands.finished import model_of
from pdrec_fast.export import export_model
from pdrec_fast.pipeline import DIFFUSION
from pdrec_fast.training import PDRec


def export(
    run_dir: opt.RunDir,
    out: Annotated[Path, typer.Option(help="Directory; an earlier export there is replaced.")],
    fusion: Annotated[
        bool, typer.Option("--fusion/--no-fusion", help="With what the guides add to the logits.")
    ] = True,
    k: Annotated[int, typer.Option("-k", min=1, help="Items that the recommender gives.")] = 100,
    onnx: Annotated[
        bool, typer.Option("--onnx/--no-onnx", help="Also as ONNX, not for torch.export alone.")
    ] = True,
    threads: opt.Threads = None,
) -> None:
    """Write the model of a finished run for programs without this package.

    See docs/serving.md for the files and how to call them.
    """
    opt.use_threads(threads)
    model = model_of(run_dir, "cpu")
    if not isinstance(model, PDRec):
        raise ValueError(f"{run_dir}: a run with --encoder {DIFFUSION} has no encoder to export")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    export_model(model, out, fusion=fusion, k=k, onnx=onnx, metrics=metrics["protocols"])
    card = json.loads((out / "card.json").read_text())
    kinds = ", ".join(sorted(card["files"]))
    print(f"{card['model']}: {card['n_items']:,} items, vectors of {card['width']}; {kinds}")
    if not card["vectors_are_complete"]:
        names = ", ".join(share["guide"] for share in card["shares"] if not share["in_vectors"])
        print(f"the vectors lack what {names} adds, which is no product; the recommender has it")
    print(f"written to {out}")
