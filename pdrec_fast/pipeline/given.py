"""A given split in the directory of its run, from which ``evaluate`` takes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from pdrec_fast.data import Histories, Holdout, Interactions, Split
from pdrec_fast.data.splits import assembled
from pdrec_fast.errors import CheckpointError
from pdrec_fast.fitting.bundle import bundle_exists, read_bundle, write_bundle
from pdrec_fast.pipeline.configuration import SplitSpec

SPLIT = "split"  # its name in the directory of a run
_KIND = "split"


def save_split(split: Split, path: str | Path) -> None:
    """Write what ``load_split`` needs beside the data to the directory ``path``."""
    report = split.report
    meta = {
        "method": report.method,
        "left_out": {reason: list(ids) for reason, ids in report.left_out.items()},
        "data": split.data.fingerprint(),
        "sets": split.sets,
    }
    files = {"lengths": {"train": torch.from_numpy(np.diff(split.train.indptr))}}
    for name, cases in (("valid", split.valid), ("test", split.test)):
        found = cases.histories
        arrays = {"users": found.users, "starts": found.starts, "stops": found.stops}
        arrays["targets"] = cases.targets
        files[name] = {key: torch.from_numpy(array) for key, array in arrays.items()}
    write_bundle(path, _KIND, meta, files)


def load_split(path: str | Path, data: Interactions) -> Split:
    """The split that ``save_split`` wrote.

    Args:
        data: that of the split.

    Raises:
        CheckpointError: missing, damaged, or of other data.
    """
    meta, files = read_bundle(path, _KIND)
    if meta["data"] != data.fingerprint():
        raise CheckpointError(f"{path}: is a split of other data than the model's")

    def cases(name: str) -> Holdout:
        arrays = {key: tensor.numpy() for key, tensor in files[name].items()}
        histories = Histories(
            items=data.items,
            timestamps=data.timestamps,
            users=arrays["users"],
            starts=arrays["starts"],
            stops=arrays["stops"],
            n_items=data.n_items,
            catalogue=data.catalogue,
        )
        return Holdout(histories, arrays["targets"])

    left_out = {}
    for reason, ids in meta["left_out"].items():
        left_out[reason] = np.zeros(data.n_users, dtype=bool)
        left_out[reason][data.user_index(ids)] = True
    return assembled(
        data,
        train_lengths=files["lengths"]["train"].numpy(),
        valid=cases("valid"),
        test=cases("test"),
        method=meta["method"],
        left_out=left_out,
        sets=meta["sets"],
    )


def split_of(run_dir: Path, spec: SplitSpec, data: Interactions) -> Split:
    """The split of the run in ``run_dir``: the given one that lies there, or as ``spec`` says.

    Raises:
        CheckpointError: see ``load_split``.
    """
    if bundle_exists(run_dir / SPLIT):
        return load_split(run_dir / SPLIT, data)
    return spec.apply(data)


def fingerprint_of(split: Split) -> str:
    """16 hexadecimal digits that change with any record or case."""
    digest = hashlib.sha256((split.data.fingerprint() + split.train.fingerprint()).encode())
    for cases in (split.valid, split.test):
        found = cases.histories
        for array in (found.users, found.starts, found.stops, cases.targets):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
