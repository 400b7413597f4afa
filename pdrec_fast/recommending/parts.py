"""Recommendations to many people as one file, in parts, so that a job that was killed goes on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pdrec_fast.errors import CheckpointError, MissingExtraError
from pdrec_fast.files import write_json, writing
from pdrec_fast.recommending.recommendations import Recommendations

SUFFIXES = (".parquet", ".csv")
COLUMNS = ("user", "item", "score", "rank", "fallback")


def check_path(path: Path) -> None:
    """Raises ValueError, MissingExtraError or OSError before any work is done for ``path``."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: name the file as one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                f"{path}: writing Parquet needs pyarrow; pip install pdrec_fast[frames], or name "
                "the file .csv"
            ) from error


def write_in_parts(
    path: Path,
    description: dict[str, Any],
    n_people: int,
    part_size: int,
    recommended: Callable[[slice], Recommendations],
    progress: bool,
) -> None:
    """Write what is ``recommended`` to the people of one part after another, then join the parts.

    Args:
        path: a ``.parquet`` or ``.csv`` file; replaced whole, once everything is there.
        description: JSON values that say what is being written. Parts of another description, left
            by a job that was stopped, are refused.

    Raises:
        CheckpointError: parts of another job lie beside ``path``.
        WriteError: no space, no permission; the parts that are finished are kept.
    """
    with writing(path):
        _write(path, description, n_people, part_size, recommended, progress)


def _write(
    path: Path,
    description: dict[str, Any],
    n_people: int,
    part_size: int,
    recommended: Callable[[slice], Recommendations],
    progress: bool,
) -> None:
    folder = path.with_name(f".{path.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    _reserve(folder, path, description | {"people": n_people, "part_size": part_size})
    starts = range(0, max(n_people, 1), part_size)  # a part of nobody has the columns
    parts = [folder / f"part-{number:06d}{path.suffix}" for number in range(len(starts))]
    with tqdm(total=n_people, desc="recommend", unit="user", disable=not progress) as bar:
        for start, part in zip(starts, parts, strict=True):
            people = slice(start, min(start + part_size, n_people))
            if not part.exists():
                _write_part(part, recommended(people))
            bar.update(people.stop - people.start)
    whole = folder / f"whole{path.suffix}"
    (_join_csv if path.suffix == ".csv" else _join_parquet)(parts, whole)
    os.replace(whole, path)
    shutil.rmtree(folder)


def digest_of(contents: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> str:
    """16 hexadecimal digits that change with anything that a model saves."""
    meta, files = contents
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for file, tensors in sorted(files.items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{file} {name}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _reserve(folder: Path, path: Path, description: dict[str, Any]) -> None:
    marker = folder / "job.json"
    description = json.loads(json.dumps(description))
    if marker.exists():
        try:
            found = json.loads(marker.read_text())
        except ValueError:
            found = None
        if found != description:
            raise CheckpointError(
                f"{folder}: parts of another job for {path.name}, of another model, data or "
                "options; delete the folder, or write to another file"
            )
        return
    write_json(marker, description)


def _write_part(part: Path, found: Recommendations) -> None:
    columns = found.columns()
    fresh = part.with_name(f".{part.name}")
    if part.suffix == ".csv":
        with open(fresh, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(_rows(columns))
    else:
        import pyarrow
        import pyarrow.parquet

        # Told apart from "no values of any kind" where nobody gets anything.
        text = {name for name, values in columns.items() if values.dtype == object}
        arrays = {
            name: pyarrow.array(values, pyarrow.string() if name in text else None)
            for name, values in columns.items()
        }
        pyarrow.parquet.write_table(pyarrow.table(arrays), fresh)
    os.replace(fresh, part)


def _rows(columns: dict[str, np.ndarray]) -> Iterator[tuple[Any, ...]]:
    text = [columns[name].tolist() for name in COLUMNS]
    text[2] = [f"{score:.7g}" for score in text[2]]
    text[4] = [int(marked) for marked in text[4]]
    return zip(*text, strict=True)


def _join_csv(parts: list[Path], whole: Path) -> None:
    with open(whole, "wb") as stream:
        stream.write((",".join(COLUMNS) + "\r\n").encode())
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, stream)


def _join_parquet(parts: list[Path], whole: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(whole, pyarrow.parquet.read_schema(parts[0])) as writer:
        for part in parts:
            table = pyarrow.parquet.read_table(part)
            if table.num_rows:
                writer.write_table(table)
