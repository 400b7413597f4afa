"""The files of finished studies: the only thing that a report reads.

Several directories become one ``Studies``: every variant's rows come from the directory that has
most seeds of it, so that no mean mixes two directories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdrec_fast.errors import DataError
from pdrec_fast.files import read_json
from pdrec_fast.studies.schema import TABLES, read_table
from pdrec_fast.studies.variants import DATA_SET, VARIANT, DataSet, Variant

if TYPE_CHECKING:
    import pandas as pd


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
    def data_sets(self) -> dict[DataSet, Mapping[str, Any]]:
        """What is said of each data set."""
        entries = [entry for entry in self.values.get("data", []) if isinstance(entry, Mapping)]
        return {
            DataSet(str(entry.get("name")), str(entry.get("preset"))): entry for entry in entries
        }

    def holds(self, data: str) -> bool:
        """Whether it ran data of this name, whatever the preset."""
        return any(found.data == data for found in self.data_sets)


@dataclass(frozen=True)
class Studies:
    """The tables of one or more studies.

    Attributes:
        infos: one per directory.
        tables: by name, see ``schema.TABLES``.
        notes: what the reader of the merged rows should know.
    """

    infos: Sequence[StudyInfo]
    tables: Mapping[str, pd.DataFrame]
    notes: Sequence[str]

    @cached_property
    def data_sets(self) -> list[DataSet]:
        """In the order of the files."""
        tables = [self.tables[name] for name in ("results", "curves", "ranks", "hbr")]
        return list(dict.fromkeys(found for table in tables for found in _data_sets(table)))

    def variants(self, data_set: DataSet) -> list[Variant]:
        """Those with results, in the order of the files."""
        return list(dict.fromkeys(key[0] for key in self._values if key[0].data_set == data_set))

    @property
    def protocols(self) -> list[str]:
        return self.tables["results"]["protocol"].unique().tolist()

    def rows(self, name: str, data_set: DataSet) -> pd.DataFrame:
        """The rows of a data set in the table ``name``."""
        table = self.tables[name]
        return table[(table["data"] == data_set.data) & (table["preset"] == data_set.preset)]

    def items(self, data_set: DataSet) -> int | None:
        """How many the data set has, as study.json says; None where it does not."""
        entries = [info.data_sets[data_set] for info in self.infos if data_set in info.data_sets]
        found = entries[0].get("items") if entries else None
        return found if isinstance(found, int) else None

    def values(self, variant: Variant, protocol: str, metric: str) -> pd.Series:
        """The metric on test by seed; empty without results."""
        none = self.tables["results"]["value"].iloc[:0]
        return self._values.get((variant, protocol, metric), none)

    def comparison(
        self, variant: Variant, protocol: str, metric: str, baseline: str = "none"
    ) -> Any:
        """The row of comparisons on test, against the plain backbone or another baseline; its
        columns are attributes. None where there is none."""
        return self._comparisons.get((variant, protocol, metric, baseline))

    @cached_property
    def _values(self) -> dict[tuple[Variant, str, str], pd.Series]:
        table = self.tables["results"].query("split == 'test'").set_index("seed")
        groups = table.groupby([*VARIANT, "protocol", "metric"], sort=False)["value"]
        return {(Variant(*key[:5]), key[5], key[6]): values for key, values in groups}

    @cached_property
    def _comparisons(self) -> dict[tuple[Variant, str, str, str], Any]:
        rows = self.tables["comparisons"].query("split == 'test'").itertuples(index=False)
        return {(Variant(*row[:5]), row.protocol, row.metric, row.baseline): row for row in rows}


def _data_sets(table: pd.DataFrame) -> list[DataSet]:
    return [DataSet(*row) for row in table[DATA_SET].drop_duplicates().itertuples(index=False)]


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
    tables = {name: [read_table(path, name) for path in directories] for name in TABLES}
    return Studies(
        infos=infos,
        tables={name: _merge(found) for name, found in tables.items()},
        notes=_disagreements(directories, tables["results"]),
    )


def _read_info(directory: Path) -> StudyInfo:
    path = directory / "study.json"
    try:
        values = read_json(path)
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


def _merge(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of each variant, or data set, from the table with most seeds of it, from the first
    of equals."""
    import pandas as pd

    rows = [table.assign(directory=place) for place, table in enumerate(tables) if len(table)]
    if not rows:
        return tables[0]
    table = pd.concat(rows, ignore_index=True)
    key = [column for column in VARIANT if column in table]
    count = ("seed", "nunique") if "seed" in table else ("seeds", "max")
    table["n_seeds"] = table.groupby([*key, "directory"])[count[0]].transform(count[1])
    by_seeds = table.sort_values(["n_seeds", "directory"], ascending=[False, True], kind="stable")
    chosen = by_seeds.groupby(key)["directory"].transform("first").sort_index()
    first_seen = table.groupby(key, sort=False).ngroup()
    order = first_seen[table["directory"] == chosen].sort_values(kind="stable").index
    return table.loc[order, tables[0].columns].reset_index(drop=True)


def _refuse_other_settings(infos: Sequence[StudyInfo]) -> None:
    first: dict[DataSet, tuple[StudyInfo, Any]] = {}
    for info in infos:
        for data_set, entry in info.data_sets.items():
            other, data = first.setdefault(data_set, (info, entry.get("fingerprint")))
            ran = f"{other.directory} and {info.directory} ran {data_set.data}"
            if other.text("settings") != info.text("settings"):
                raise DataError(
                    f"{ran} with different settings ({other.text('settings')}; "
                    f"{info.text('settings')}): make a report of each"
                )
            if data != entry.get("fingerprint"):
                raise DataError(f"{ran} on different data: make a report of each")


def _disagreements(directories: Sequence[Path], tables: Sequence[pd.DataFrame]) -> list[str]:
    """What to say of runs that stand in two directories with different values."""
    seen: dict[tuple[Any, ...], tuple[Path, float]] = {}
    gaps: dict[tuple[Path, Path], list[float]] = {}
    for directory, table in zip(directories, tables, strict=True):
        for *key, value in table.drop(columns="seconds").itertuples(index=False):
            other, there = seen.setdefault(tuple(key), (directory, value))
            if value != there and not math.isnan(value + there):
                gaps.setdefault((other, directory), []).append(abs(there - value))
    return [
        f"{len(found):,} results stand in both {one.name} and {two.name} with different values (by "
        f"up to {max(found):.2g}); those of the directory with more seeds of the model are shown, "
        f"of {one.name} where both have as many."
        for (one, two), found in gaps.items()
    ]
