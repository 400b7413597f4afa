"""A fitted model as a directory that other programs read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import pdrec_fast
from pdrec_fast.checks import check_whole
from pdrec_fast.data import Interactions
from pdrec_fast.export.parts import (
    Model,
    Parts,
    Recommender,
    Vectors,
    described_shares,
    model_parts,
)
from pdrec_fast.export.programs import check_onnx, forget_shapes, traced, write_onnx
from pdrec_fast.files import checksum, whole_directory
from pdrec_fast.fitting.finite import check_parameters

KIND = "PDRec export"
FORMAT = 1
CARD = "card.json"
_SUFFIXES = (".pt2", ".onnx", ".data", ".npy", ".safetensors", ".jsonl")


def export_model(
    model: Model,
    path: str | Path,
    *,
    fusion: bool = True,
    k: int = 100,
    onnx: bool = True,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """See ``PDRec.export``; ``metrics`` are JSON values for the card."""
    if onnx:
        check_onnx()
    data = model.data
    assert data is not None
    check_whole(k=k)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    check_parameters(model.fitted_encoder(), model.name)
    parts = model_parts(model, fusion=fusion)
    recommended = recommended_items(parts, data)
    k = min(k, int(data.n_items))
    programs = {
        "encoder": (Vectors(parts), ["vectors"]),
        "recommender": (
            Recommender(parts, recommended, k),
            ["scores", "top_rows", "top_scores"],
        ),
    }
    with whole_directory(path, KIND, CARD, _is_part) as folder:
        for name, (module, outputs) in programs.items():
            program = traced(module, parts.reads_times, f"the {name} of {model.name!r}")
            # To memory first: where there is no room, torch ends the process.
            content = io.BytesIO()
            torch.export.save(program, content)
            (folder / f"{name}.pt2").write_bytes(content.getbuffer())
            if onnx:
                write_onnx(program, folder / f"{name}.onnx", outputs, parts.reads_times)
            forget_shapes(program)
        matrix = parts.matrix.contiguous()
        save_file({"matrix": matrix}, folder / "items.safetensors")
        np.save(folder / "items.npy", matrix.numpy())
        _write_items(folder / "items.jsonl", model, recommended)
        files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
        card = _card(model, parts, fusion, k, recommended) | {"metrics": metrics, "files": files}
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def recommended_items(parts: Parts, data: Interactions) -> torch.Tensor:
    """bool [N]: those that are ranked and, of two domains, the target's."""
    recommended = ~parts.hidden
    if data.target_items is not None:
        recommended &= torch.from_numpy(np.array(data.target_items))
    return recommended


def _write_items(file: Path, model: Model, recommended: torch.Tensor) -> None:
    """One JSON object a line, in the order of the matrix's rows."""
    assert model.data is not None
    ids = model.data.item_ids.tolist()
    trained = np.ones(len(ids), bool) if model.trained_items is None else model.trained_items
    with open(file, "w", encoding="utf-8") as stream:
        for row, (name, *flags) in enumerate(
            zip(ids, trained.tolist(), recommended.tolist(), strict=True)
        ):
            line = {"row": row, "id": name, "trained": flags[0], "recommended": flags[1]}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _card(
    model: Model, parts: Parts, fusion: bool, k: int, recommended: torch.Tensor
) -> dict[str, Any]:
    data, config = model.data, model.config
    assert data is not None
    shares = described_shares(model, fusion)
    n_untrained = 0 if model.trained_items is None else int((~model.trained_items).sum())
    return {
        "kind": KIND,
        "format": FORMAT,
        "pdrec_fast": pdrec_fast.__version__,
        "torch": torch.__version__,
        "model": model.name,
        "n_items": data.n_items,
        "width": parts.matrix.shape[1],
        "top_k": k,
        "inputs": {
            "items": "int64 [batch, length]: row of items.jsonl + 1, oldest first",
            "times": "float64 [batch, length]: timestamps, ascending"
            if parts.reads_times
            else None,
        },
        "preprocessing": {
            "padding": 0,
            "padding_side": "any",
            "id_offset": 1,
            "max_length": model.fitted_encoder().max_length,
            "unknown_items": "leave out",
            "skip_items_never_trained_on": config.skip_cold_items,
        },
        "outputs": {
            "vectors": "float32 [batch, width]; scores = vectors @ matrix.T",
            "scores": "float32 [batch, n_items]; -inf of items that are not ranked",
            "top_rows": "int64 [batch, top_k], rows of items.jsonl without the history's, best "
            "first; not to be read where top_scores is -inf",
            "top_scores": "float32 [batch, top_k]",
        },
        "similarity": config.similarity,
        "temperature": model.temperature if config.similarity == "cosine" else None,
        "rank_items_never_trained_on": config.rank_cold_items,
        "items_never_trained_on": n_untrained,
        "items_recommended": int(recommended.sum()),
        "shares": shares,
        "vectors_are_complete": parts.are_vectors,
        "validation": _validation(model),
    }


def _validation(model: Model) -> dict[str, Any] | None:
    history = model.history
    if history is None or history.best_epoch < 0:
        return None
    return {
        "metric": "ndcg@10",
        "protocol": model.config.select_by,
        "value": history.best_value,
        "of": "the encoder, before the fusion",
        "users": history.validation_users,
    }


def _is_part(file: Path) -> bool:
    return file.name == CARD or file.suffix in _SUFFIXES
