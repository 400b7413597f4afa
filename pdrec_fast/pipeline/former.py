"""A finished run whose models are the start of another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdrec_fast.data import Holdout, Split
from pdrec_fast.data.storage import id_array
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import CheckpointError, DataError
from pdrec_fast.files import read_json
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.fitting.warm_start import places_of
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.given import split_of
from pdrec_fast.pipeline.run_directory import tested_models, with_current_defaults
from pdrec_fast.pipeline.stages import Models
from pdrec_fast.training import PDRec
from pdrec_fast.training.starting import start_from

_MOST_SEEN = 0.1  # of the cases of validation or test


@dataclass(frozen=True)
class Former:
    """What lies in the directory of a finished run.

    Attributes:
        config: its configuration; of an updated run, that of the one it began with.
        split: how its data were split; None where no encoder keeps them.
        selected: its models, trained on the training part.
        final: those trained on all records, else the same. A guide that does not start from an
            earlier one is in neither.
        untested: what ``seen_by`` found of its own split, where it was an update.
    """

    config: RunConfig
    split: Split | None
    selected: Models
    final: Models
    untested: Mapping[str, list[int | str]]

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str) -> Former:
        """Read a run's models onto a device.

        Raises:
            CheckpointError: no finished run is there, or it is damaged.
        """
        out = Path(directory)
        marker = read_run(out)
        config = RunConfig.from_description(marker["config"])
        selected = _models(tested_models(out), config, device)
        final = _models(out, config, device) if config.final else selected
        split = None
        if selected.model is not None:
            assert selected.model.data is not None
            split = split_of(out, config.split, selected.model.data)
        untested = marker.get("warm start", {}).get("untested", {})
        return cls(first_config(marker), split, selected, final, untested)

    def describe(self) -> dict[str, Any]:
        """As JSON values: the models' fingerprints, and the configuration."""
        models = {}
        for name in ("diffusion", "guide", "model"):
            found = (getattr(self.selected, name), getattr(self.final, name))
            models[name] = [None if model is None else model.fingerprint() for model in found]
        return {"models": models, "config": self.config.describe()}

    def check_fits(self, config: RunConfig, new: Models, split: Split) -> None:
        """Find before the first training what would be found in a later one: models that cannot
        start from these.

        Args:
            new: not yet fitted.

        Raises:
            ValueError: see ``PDRec.fit``.
        """
        item_ids = split.data.item_ids
        if config.needs_diffusion and self.selected.diffusion is not None:
            diffusion = DiffRec(config.diffusion, device="cpu")
            diffusion.new_denoiser(item_ids, self.selected.diffusion, tell=False)
        for name in ("guide", "model"):
            model, former = getattr(new, name), getattr(self.selected, name)
            if isinstance(model, PDRec) and former is not None:
                encoder = model.encoder_for(split)
                start_from(former, model, encoder, item_ids, tell=False)

    def seen_by(self, split: Split) -> dict[str, list[int | str]]:
        """The users of whom ``split`` holds out what these models were trained on, by part: raw ids
        of ``"valid"`` and ``"test"``. One whose history was too short to hold anything out, and is
        not now, is such a user.

        Raises:
            DataError: they are more than a few.
        """
        found: dict[str, list[int | str]] = {"valid": [], "test": []}
        if self.split is None:
            return found
        data, before = split.data, self.split.data
        users = places_of(before.user_ids, data.user_ids)
        items = places_of(before.item_ids, data.item_ids)
        train = self.split.train
        records = [(train.record_users, train.items)]
        for name, part in (("valid", self.split.valid), ("test", self.split.test)):
            known = np.isin(before.user_ids[part.users], id_array(self.untested.get(name, [])))
            records.append((part.users[known], part.targets[known]))
        user, item = (np.concatenate(column) for column in zip(*records, strict=True))
        user, item = users[user], items[item]
        there = (user >= 0) & (item >= 0)
        now = split.train.record_users * data.n_items + split.train.items
        trained = np.setdiff1d(user[there] * data.n_items + item[there], now)
        for name, part in (("valid", split.valid), ("test", split.test)):
            held_out = part.users.astype(np.int64) * data.n_items + part.targets
            seen = np.isin(held_out, trained)
            if seen.mean() > _MOST_SEEN:
                raise DataError(
                    f"warm_start: {seen.sum()} of {len(part)} records that the new split holds out "
                    "were trained on by the former run: split the new data at later times "
                    "(--valid-from, --test-from), or train from scratch"
                )
            found[name] = data.user_ids[part.users[seen]].tolist()
        return found


def without_seen(split: Split, seen: Mapping[str, list[int | str]]) -> Split:
    """``split`` without the cases of ``Former.seen_by``."""
    parts, report = {}, split.report
    left_out = dict(report.left_out)
    for name, part in (("valid", split.valid), ("test", split.test)):
        gone = np.isin(split.data.user_ids[part.users], id_array(seen[name]))
        kept = np.flatnonzero(~gone)
        parts[name] = Holdout(part.histories[kept], part.targets[kept])
        left_out[f"no {name} case, the former model was trained on it"] = tuple(seen[name])
    report = replace(
        report, left_out=left_out, n_valid=len(parts["valid"]), n_test=len(parts["test"])
    )
    return replace(split, valid=parts["valid"], test=parts["test"], report=report)


def read_run(out: Path) -> dict[str, Any]:
    """What ``run.json`` of a finished run says.

    Raises:
        CheckpointError: there is none, or it is not finished.
    """
    marker = out / "run.json"
    if not marker.exists():
        raise CheckpointError(f"{out}: no run is here (run.json not found)")
    if not (out / "metrics.json").exists():
        raise CheckpointError(f"{out}: the run is not finished; give its command again")
    try:
        return with_current_defaults(read_json(marker), marker)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{marker}: damaged ({error})") from None


def first_config(marker: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run that ``marker`` is of; where that was an update, and the run
    that it updated as well, of the first."""
    return RunConfig.from_description(marker.get("warm start", marker)["config"])


def _models(directory: Path, config: RunConfig, device: torch.device | str) -> Models:
    def encoder(name: str) -> PDRec | None:
        path = directory / name
        return PDRec.load(path, device=device) if bundle_exists(path) else None

    diffusion, model = None, encoder("model")
    if bundle_exists(directory / "diffusion"):
        diffusion = DiffRec.load(directory / "diffusion", device=device)
        if diffusion.item_ids is None and model is not None:  # of an older version
            assert model.data is not None
            diffusion.item_ids = model.data.item_ids
    guide = encoder("guide") if config.guide in ENCODERS else None
    return Models(diffusion=diffusion, guide=guide, model=model)
