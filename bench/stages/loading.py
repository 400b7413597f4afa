"""Reading a RecBole file into sorted, indexed interactions."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

import pdrec_fast as pf
from bench.data import BOOK, interactions, real_file, source
from bench.registry import Case, Floor, Implementation, call, operation

_HEADER = "user_id:token\titem_id:token\ttimestamp:float"


@operation("loading", "stage", sizes=BOOK, small={"users": 50, "items": 301}, check_at_size=True)
def loading(users: int, items: int) -> Case:
    """``Interactions.from_file`` of a tab-separated file of integer ids."""
    path = real_file(users, items) or _generated(users, items)
    read = call(pd.read_csv, path, sep="\t").prepare

    def by_pandas() -> tuple[np.ndarray, ...]:
        frame = pd.read_csv(path, sep="\t")
        user, item, time = (frame.iloc[:, column].to_numpy() for column in range(3))
        rows, columns = (np.unique(ids, return_inverse=True)[1] for ids in (user, item))
        order = np.lexsort((time, rows))
        return np.append(0, np.cumsum(np.bincount(rows))), columns[order], time[order]

    def loaded() -> tuple[np.ndarray, ...]:
        data = pf.Interactions.from_file(path)
        return data.indptr, data.items, data.timestamps

    return Case(
        {
            "pdrec_fast": Implementation(call(pf.Interactions.from_file, path).prepare, loaded),
            "pandas, indexed and sorted": call(by_pandas),
            "pandas.read_csv": Implementation(
                read, comparable=False, note="reads the columns, neither indexes nor sorts"
            ),
        },
        reference="pandas, indexed and sorted",
        floor=Floor(bytes=path.stat().st_size),
        sizes={"bytes": path.stat().st_size},
        data=source(users, items),
    )


@cache
def _generated(users: int, items: int) -> Path:
    """A file of generated interactions, in RecBole's format."""
    data = interactions(users, items)
    path = Path(_folder().name) / f"{users}x{items}.inter"
    records = zip(data.record_users, data.items, data.timestamps, strict=True)
    lines = [f"{user + 1}\t{item + 1}\t{time:.0f}" for user, item, time in records]
    path.write_text("\n".join([_HEADER, *lines, ""]))
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="pdrec-bench-")
