"""What a search leaves: its trials, the best of them, and files of tuned settings."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdrec_fast.files import make_directory, write_json, write_text
from pdrec_fast.presets.tuned import Kind, kind_of, read_tuned

logger = logging.getLogger("pdrec_fast")
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_BUDGET = ("trials", "epochs")


@dataclass(frozen=True)
class Trial:
    """One training run of a search.

    Attributes:
        number: from 0.
        state: ``"complete"``, ``"pruned"`` (ended early, being behind most others) or ``"failed"``
            (diverged).
        value: best validation NDCG@10; None where it failed.
        best_epoch: the epoch of that value, from 1; 0 where it failed.
        epochs: trained.
        seconds: spent in epochs.
        settings: those that were searched.
    """

    number: int
    state: str
    value: float | None
    best_epoch: int
    epochs: int
    seconds: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """A finished or unfinished search.

    Attributes:
        base, encoder, modules, seed, epochs: what was searched for, and the epochs of each trial.
        protocol: of the validation NDCG@10.
        data: fingerprint of the interactions.
        fixed: settings that differ from the base and were not searched.
        first: settings that the search was told to try first.
        trials: in their order; the first has the base's own settings.
    """

    base: str
    encoder: str
    modules: tuple[str, ...]
    seed: int
    epochs: int
    protocol: str
    data: str
    fixed: dict[str, Any]
    first: Sequence[dict[str, Any]]
    trials: Sequence[Trial]

    @property
    def kind(self) -> Kind:
        return kind_of(self.modules)

    @property
    def best(self) -> Trial:
        """The complete trial of the highest value, the first of equals.

        Raises:
            ValueError: none is complete.
        """
        best = best_of(self.trials)
        if best is None:
            raise ValueError(
                f"none of {len(self.trials)} trials is complete: all diverged; look at the data "
                "and at the fixed settings"
            )
        return best

    @property
    def settings(self) -> dict[str, Any]:
        """The best trial's settings and the fixed ones: all that the base does not say."""
        return self.fixed | self.best.settings

    def summary(self) -> dict[str, Any]:
        """What a file of tuned settings says of the search, as JSON values."""
        best, states = self.best, [trial.state for trial in self.trials]
        return {
            "modules": ",".join(self.modules) or "none",
            "trials": len(self.trials),
            "pruned": states.count(PRUNED),
            "failed": states.count(FAILED),
            "epochs": self.epochs,
            "seed": self.seed,
            "metric": f"validation NDCG@10 ({self.protocol})",
            "before": self.trials[0].value,
            "after": best.value,
            "best_trial": best.number,
            "best_epoch": best.best_epoch,
            "data": self.data,
        }


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial of the highest value, the first of equals."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """One row per trial, one column per setting."""
    text = io.StringIO()
    rows = [asdict(trial) for trial in trials]
    rows = [row | row.pop("settings") for row in rows]
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def merge(path: str | Path, result: SearchResult, command: str) -> None:
    """Put the best settings of a search into a file of tuned settings, made where there is none.

    An earlier entry for the same encoder and kind is replaced, others stay.

    Args:
        path: ends with ``.json``.
        command: that did the search, for the reader.

    Raises:
        ValueError: the path's name is another, the file there is none of tuned settings, or it has
            another base; or no trial is complete.
    """
    path = Path(path)
    check_file(path, result.base)
    tuned: dict[str, Any] = {"base": result.base, "encoders": {}}
    if path.exists():
        tuned = read_tuned(path)
    entry = {"settings": result.settings, "search": {"command": command} | result.summary()}
    kinds: dict[str, Any] = tuned["encoders"].setdefault(result.encoder, {})
    kinds[result.kind] = entry
    tuned["encoders"][result.encoder] = dict(sorted(kinds.items(), reverse=True))  # plain first
    _compare_budgets(result.encoder, kinds)
    make_directory(path.parent)
    write_json(path, tuned)


def check_file(path: Path, base: str) -> None:
    """Raise a ValueError where ``merge`` would refuse the file."""
    if path.suffix != ".json":
        raise ValueError(f"{path}: a file of tuned settings is called NAME.json")
    if path.exists():
        found = read_tuned(path)["base"]
        if found != base:
            raise ValueError(
                f"{path}: holds settings that begin with the preset {found!r}, not {base!r}; use "
                "another file"
            )


def _compare_budgets(encoder: str, kinds: Mapping[str, Any]) -> None:
    budgets = {
        kind: {name: entry["search"].get(name) for name in _BUDGET} for kind, entry in kinds.items()
    }
    if len(budgets) == 2 and budgets["plain"] != budgets["guided"]:
        logger.warning(
            "%s: the plain encoder was searched with %s, the guided one with %s; give both the "
            "same before they are compared",
            encoder,
            budgets["plain"],
            budgets["guided"],
        )
