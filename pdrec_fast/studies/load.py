"""The files of finished studies as typed rows: the only thing that a report reads.

Several directories become one ``Studies``: every variant's rows come from the directory that has
most seeds of it, so that no mean mixes two directories.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from pdrec_fast.errors import DataError


class DataSet(NamedTuple):
    """A data set as it was run; the same data under two presets are two."""

    data: str
    preset: str


class Variant(NamedTuple):
    """A model as it was run: ``modules`` is "none" or e.g. "hbr+nns+dpa"."""

    data: str
    preset: str
    model: str
    modules: str
    guide: str

    @property
    def data_set(self) -> DataSet:
        return DataSet(self.data, self.preset)


@dataclass(frozen=True)
class _DataRow:
    data: str
    preset: str

    @property
    def data_set(self) -> DataSet:
        return DataSet(self.data, self.preset)


Row = TypeVar("Row", bound=_DataRow)


@dataclass(frozen=True)
class _VariantRow(_DataRow):
    model: str
    modules: str
    guide: str

    @property
    def variant(self) -> Variant:
        return Variant(self.data, self.preset, self.model, self.modules, self.guide)


@dataclass(frozen=True)
class Result(_VariantRow):
    """A line of results.csv: one metric of one run."""

    seed: int
    protocol: str
    split: str
    metric: str
    value: float
    seconds: float


@dataclass(frozen=True)
class Comparison(_VariantRow):
    """A line of comparisons.csv: a variant against its ``baseline``, "none" for the plain model."""

    baseline: str
    protocol: str
    split: str
    metric: str
    seeds: int
    users: int
    mean: float
    sd: float
    baseline_mean: float
    baseline_sd: float
    gain_percent: float
    p_seeds: float
    p_users: float


@dataclass(frozen=True)
class Epoch(_VariantRow):
    """A line of curves.csv; ``valid`` is NaN where validation was not taken."""

    seed: int
    epoch: int
    seconds: float
    loss: float
    valid: float


@dataclass(frozen=True)
class RankBin(_DataRow):
    """A line of ranks.csv: the cases whose test item has a rank of this bin."""

    seed: int
    known: int
    rank_from: int
    rank_to: int
    cases: int


@dataclass(frozen=True)
class PopularityBin(_VariantRow):
    """A line of popularity.csv: one metric of one run on the test cases whose target has so many
    records in training."""

    seed: int
    protocol: str
    metric: str
    records_from: int
    records_to: int
    cases: int
    value: float


@dataclass(frozen=True)
class Behaviour(_DataRow):
    """A line of hbr.csv: one behaviour of a user's history and its weight."""

    seed: int
    user: str
    position: int
    item: str
    timestamp: float
    preference: float
    rank: int
    weight: float


@dataclass(frozen=True)
class StudyInfo:
    """study.json of one directory."""

    directory: Path
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The value of ``key`` in words; "not recorded" where the file has none."""
        value = self.values.get(key)
        if isinstance(value, list):
            value = ", ".join(str(each) for each in value) or "none"
        return str(value) if value not in (None, "") else "not recorded"

    @property
    def data_sets(self) -> list[Mapping[str, Any]]:
        return [entry for entry in self.values.get("data", []) if isinstance(entry, Mapping)]


@dataclass(frozen=True)
class Studies:
    """All rows of one or more studies.

    Attributes:
        infos: one per directory.
        notes: what the reader of the merged rows should know.
    """

    infos: Sequence[StudyInfo]
    results: Sequence[Result]
    comparisons: Sequence[Comparison]
    curves: Sequence[Epoch]
    ranks: Sequence[RankBin]
    popularity: Sequence[PopularityBin]
    behaviours: Sequence[Behaviour]
    notes: Sequence[str]

    @property
    def data_sets(self) -> list[DataSet]:
        """In the order of the files."""
        rows = (self.results, self.curves, self.ranks, self.behaviours)
        return list(dict.fromkeys(row.data_set for part in rows for row in part))

    def variants(self, data_set: DataSet) -> list[Variant]:
        """Those with results, in the order of the files."""
        found = dict.fromkeys(row.variant for row in self.results)
        return [variant for variant in found if variant.data_set == data_set]

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(row.protocol for row in self.results))

    def items(self, data_set: DataSet) -> int | None:
        """How many the data set has, as study.json says."""
        for info in self.infos:
            for entry in info.data_sets:
                if (entry.get("name"), entry.get("preset")) == data_set:
                    found = entry.get("items")
                    return found if isinstance(found, int) else None
        return None

    def values(self, variant: Variant, protocol: str, metric: str) -> dict[int, float]:
        """Seed -> the metric on test; empty without results."""
        return self._values.get((variant, protocol, metric), {})

    def comparison(
        self, variant: Variant, protocol: str, metric: str, baseline: str = "none"
    ) -> Comparison | None:
        """On test, against the plain backbone or another baseline."""
        return self._comparisons.get((variant, protocol, metric, baseline))

    @cached_property
    def _values(self) -> dict[tuple[Variant, str, str], dict[int, float]]:
        found: dict[tuple[Variant, str, str], dict[int, float]] = {}
        for row in self.results:
            if row.split == "test":
                found.setdefault((row.variant, row.protocol, row.metric), {})[row.seed] = row.value
        return found

    @cached_property
    def _comparisons(self) -> dict[tuple[Variant, str, str, str], Comparison]:
        return {
            (row.variant, row.protocol, row.metric, row.baseline): row
            for row in self.comparisons
            if row.split == "test"
        }


def load_studies(directories: Sequence[Path]) -> Studies:
    """Read study.json and the CSV files of every directory; a CSV may be missing.

    Raises:
        ValueError: no directory, or the same one twice.
        DataError: a directory without study.json, a damaged file, or two directories that ran the
            same data set with different settings.
    """
    if not directories or len({path.resolve() for path in directories}) < len(directories):
        names = ", ".join(map(str, directories)) or "none"
        raise ValueError(f"directories must be one or more, each given once; got {names}")
    infos = [_read_info(path) for path in directories]
    _refuse_other_settings(infos)

    def tables(name: str, kind: type[Row]) -> list[list[Row]]:
        return [_read_rows(path / name, kind) for path in directories]

    results = tables("results.csv", Result)
    return Studies(
        infos=infos,
        results=_merged(results, lambda row: row.variant, _seeds),
        comparisons=_merged(
            tables("comparisons.csv", Comparison),
            lambda row: row.variant,
            lambda rows: max(row.seeds for row in rows),
        ),
        curves=_merged(tables("curves.csv", Epoch), lambda row: row.variant, _seeds),
        ranks=_merged(tables("ranks.csv", RankBin), lambda row: row.data_set, _seeds),
        popularity=_merged(
            tables("popularity.csv", PopularityBin), lambda row: row.variant, _seeds
        ),
        behaviours=_merged(tables("hbr.csv", Behaviour), lambda row: row.data_set, _seeds),
        notes=_disagreements(directories, results),
    )


def _read_info(directory: Path) -> StudyInfo:
    path = directory / "study.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{directory}: no study is here (study.json not found); give the --out directory of "
            "pdrec-fast study"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); give the study's command again") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: not a JSON object; give the study's command again")
    return StudyInfo(directory, values)


def _read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The lines of a CSV file; none where the file is missing."""
    if not path.exists():
        return []
    types = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restval="")
        absent = [name for name in names if name not in (reader.fieldnames or [])]
        if absent:
            raise DataError(
                f"{path}: no column {', '.join(absent)}; give the study's command again"
            )
        for line in reader:
            values: dict[str, Any] = {}
            for name in names:
                try:
                    values[name] = _CONVERT[types[name]](line[name])
                except ValueError:
                    raise DataError(
                        f"{path}, line {reader.line_num}, column {name}: {line[name]!r} is no "
                        "number; give the study's command again"
                    ) from None
            rows.append(kind(**values))
    return rows


def _number(text: str) -> float:
    return float(text) if text else math.nan


_CONVERT: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _number}


def _seeds(rows: Sequence[Any]) -> int:
    return len({row.seed for row in rows})


def _merged(
    tables: Sequence[Sequence[Row]],
    key: Callable[[Row], Hashable],
    seeds: Callable[[Sequence[Row]], int],
) -> list[Row]:
    """The rows of each key from the table with most seeds of it, from the first of equals."""
    chosen: dict[Hashable, list[Row]] = {}
    for table in tables:
        for name, rows in _grouped(table, key).items():
            if name not in chosen or seeds(rows) > seeds(chosen[name]):
                chosen[name] = rows
    return [row for rows in chosen.values() for row in rows]


def _grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, list[Row]]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _refuse_other_settings(infos: Sequence[StudyInfo]) -> None:
    first: dict[tuple[str, str], tuple[StudyInfo, Any]] = {}
    for info in infos:
        for entry in info.data_sets:
            name, preset = str(entry.get("name")), str(entry.get("preset"))
            other, data = first.setdefault((name, preset), (info, entry.get("fingerprint")))
            ran = f"{other.directory} and {info.directory} ran {name}"
            if other.text("settings") != info.text("settings"):
                raise DataError(
                    f"{ran} with different settings ({other.text('settings')}; "
                    f"{info.text('settings')}): make a report of each"
                )
            if data != entry.get("fingerprint"):
                raise DataError(f"{ran} on different data: make a report of each")


def _disagreements(directories: Sequence[Path], tables: Sequence[Sequence[Result]]) -> list[str]:
    """What to say of runs that stand in two directories with different values."""
    seen: dict[tuple[Any, ...], tuple[Path, float]] = {}
    counts: dict[tuple[Path, Path], list[float]] = {}
    for directory, rows in zip(directories, tables, strict=True):
        for row in rows:
            key = (row.variant, row.seed, row.protocol, row.split, row.metric)
            other, value = seen.setdefault(key, (directory, row.value))
            if value != row.value and not math.isnan(value + row.value):
                counts.setdefault((other, directory), []).append(abs(value - row.value))
    return [
        f"{len(gaps):,} results stand in both {one.name} and {two.name} with different values (by "
        f"up to {max(gaps):.2g}); those of the directory with more seeds of the model are shown, "
        f"of {one.name} where both have as many."
        for (one, two), gaps in counts.items()
    ]
