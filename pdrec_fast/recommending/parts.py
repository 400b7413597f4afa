"""Recommendations to many people as one file, in parts, so that a job that was killed goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pdrec_fast.errors import CheckpointError, MissingExtraError
from pdrec_fast.files import check_there, writing
from pdrec_fast.part_jobs import do_parts, join_once, reserve, whole_part
from pdrec_fast.recommending.recommendations import Recommendations

SUFFIXES = (".parquet", ".csv")
COLUMNS = ("user", "item", "score", "rank", "fallback")
_CHECKSUM_BYTES = hashlib.sha256().digest_size


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
    rank: int | None,
    world: int | None,
    progress: bool,
) -> bool:
    """Write what is ``recommended`` to the people of one part after another, then join the parts;
    alone or with other processes, see ``part_jobs``.

    Args:
        path: a ``.parquet`` or ``.csv`` file; replaced whole, once everything is there.
        description: JSON values that say what is being written. Parts of another description, left
            by a job that was stopped, are refused.
        rank, world: see ``part_jobs.do_parts``.

    Returns:
        Whether ``path`` is there; False where other ranks are not done yet.

    Raises:
        CheckpointError: parts of another job lie beside ``path``, or a part is damaged.
        WriteError: no space, no permission, or the folder is gone; parts that are there are kept.
    """
    folder = path.with_name(f".{path.name}.parts")
    starts = range(0, max(n_people, 1), part_size)  # a part of nobody has the columns
    parts = [folder / f"part-{number:06d}{path.suffix}" for number in range(len(starts))]
    n_own = len(parts[rank or 0 :: world or 1])
    if not n_own:  # more ranks than parts: the others may be done and have joined them
        return False
    reserve(folder, description | {"people": n_people, "part_size": part_size})

    def write(number: int) -> None:
        start = starts[number]
        _write_part(parts[number], recommended(slice(start, min(start + part_size, n_people))))

    def join() -> None:
        whole = folder / f"whole{path.suffix}"
        with whole_part(whole) as fresh:
            (_join_csv if path.suffix == ".csv" else _join_parquet)(parts, fresh)
        with writing(path):
            os.replace(whole, path)
        # By another name first: processes that look for more to do find none, or all.
        done = path.with_name(f".{path.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        folder.rename(done)
        shutil.rmtree(done)

    with tqdm(total=n_own, desc="recommend", unit="part", disable=not progress) as bar:
        do_parts(parts, write, rank, world, bar)
    joined = join_once(parts, join)
    if joined:  # or folder and file are gone, with a disk that was unmounted
        check_there(path)
    return joined


def _write_part(part: Path, found: Recommendations) -> None:
    """Write the rows of a part in the format of the whole, then their SHA-256."""
    text = (_csv_of if part.suffix == ".csv" else _parquet_of)(found.columns())
    with whole_part(part) as fresh, open(fresh, "wb") as stream:
        stream.write(text)
        stream.write(hashlib.sha256(text).digest())


def _read_part(part: Path) -> memoryview:
    """What ``_write_part`` wrote, without the checksum, which is verified."""
    content = memoryview(part.read_bytes())
    text, expected = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if hashlib.sha256(text).digest() != expected:
        raise CheckpointError(
            f"{part}: damaged; delete it, and give the command that wrote it again"
        )
    return text


def _csv_of(columns: dict[str, np.ndarray]) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(_rows(columns))
    return stream.getvalue().encode()


def _parquet_of(columns: dict[str, np.ndarray]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    # Told apart from "no values of any kind" where nobody gets anything.
    text = {name for name, values in columns.items() if values.dtype == object}
    arrays = {
        name: pyarrow.array(values, pyarrow.string() if name in text else None)
        for name, values in columns.items()
    }
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), stream)
    return stream.getvalue()


def _rows(columns: dict[str, np.ndarray]) -> Iterator[tuple[Any, ...]]:
    text = [columns[name].tolist() for name in COLUMNS]
    text[2] = [f"{score:.7g}" for score in text[2]]
    text[4] = [int(marked) for marked in text[4]]
    return zip(*text, strict=True)


def _join_csv(parts: list[Path], whole: Path) -> None:
    with open(whole, "wb") as stream:
        stream.write((",".join(COLUMNS) + "\r\n").encode())
        for part in parts:
            stream.write(_read_part(part))


def _join_parquet(parts: list[Path], whole: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def tables() -> Iterator[Any]:
        for part in parts:
            yield pyarrow.parquet.read_table(pyarrow.BufferReader(_read_part(part)))

    each = tables()
    first = next(each)
    with pyarrow.parquet.ParquetWriter(whole, first.schema) as writer:
        for table in chain([first], each):
            if table.num_rows:
                writer.write_table(table)
