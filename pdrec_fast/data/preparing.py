"""Stores from files larger than memory: DuckDB reads, sorts and spills to disk what memory does not
hold; what leaves it, in order, is written as it comes."""

from __future__ import annotations

import csv
import glob
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data.columns_sql import TimeColumn, id_column, quoted, text_ids, time_column
from pdrec_fast.data.filters import Filters, Repeats
from pdrec_fast.data.ids import (
    LIKE_MISSING,
    MISSING,
    READ_AS_WHOLE,
    TRUTH_VALUES,
    WITH_SPACES,
    as_strings,
    missing_id,
    truth_values,
)
from pdrec_fast.data.records import (
    ColumnNames,
    Columns,
    Label,
    NoRecordsError,
    no_records,
    resolve_columns,
)
from pdrec_fast.data.sources import DELIMITERS, PARQUET, Source, sources_of
from pdrec_fast.data.store import (
    CARD,
    PartWriter,
    is_file_of_a_store,
    part_name,
    write_card,
    write_ids,
)
from pdrec_fast.data.text import labels_of, line_of, rows_of, unparsable
from pdrec_fast.data.times import BadTimeError, TextTimes, as_moment, times_of
from pdrec_fast.errors import DataError, MissingExtraError
from pdrec_fast.files import whole_directory

logger = logging.getLogger("pdrec_fast")

_ROWS_PER_BLOCK = 1 << 18
_MEMORY = re.compile(r"\d+(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.IGNORECASE)
_MOST_PARTS = 10_000  # each has open files while it is written, and a line in the card


def prepare(
    data: str | Path,
    out: str | Path,
    *,
    parts: int = 1,
    memory: str = "2GB",
    threads: int | None = None,
    user: Label | None = None,
    item: Label | None = None,
    timestamp: Label | None = None,
    header: bool = True,
    min_user: int = 1,
    min_item: int = 1,
    repeats: Repeats = "keep",
    since: Any = None,
    until: Any = None,
) -> dict[str, Any]:
    """Write a store, for ``Interactions.from_store``, from files that may be larger than memory.

    The store holds what ``Interactions.from_file`` gives of the same files and options.

    Args:
        data: a Parquet file or delimited text (also ``.gz``, ``.zst``), a folder of such, or a
            pattern such as ``"logs/*.parquet"``; in the order of their names.
        out: the folder to write, whole or not at all; a store that is there is replaced. The disk
            needs room for about twice the records while it is written.
        parts: number of parts; the hash of a user decides which one. At most so many workers can
            open shares of their own. A store of one part is opened whole without a copy.
        memory: what DuckDB may use, such as ``"2GB"``; the ids of the items and of a part's users
            come on top.
        threads: CPU threads; by default DuckDB's choice.
        user, item, timestamp, header, min_user, min_item, repeats, since, until: as in
            ``Interactions.from_file``.

    Returns:
        The card: numbers of items, and of users and records in each part.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file cannot be used; names the file, row and column.
        ValueError: an option out of its range.
        MissingExtraError: no DuckDB or pyarrow.
        CheckpointError: something else than a store lies at ``out``.
        WriteError: no space, no permission; what lies there is kept.
    """
    _check(parts, memory, threads)
    filters = Filters(min_user, min_item, repeats, since, until)
    duckdb = _duckdb()
    sources = _sources(data)
    with whole_directory(out, "store", CARD, is_file_of_a_store) as fresh:
        scratch = fresh / "scratch"
        scratch.mkdir()
        settings = {"memory_limit": memory, "temp_directory": str(scratch)}
        if threads is not None:
            settings["threads"] = str(threads)
        with duckdb.connect(str(scratch / "db"), config=settings) as connection:
            connection.execute("SET autoinstall_known_extensions = false; SET TimeZone = 'UTC'")
            source = _Files(connection, str(data), sources, header)
            names = ColumnNames(user, item, timestamp)
            with _readable(duckdb, source):
                card = _Preparation(source, names, filters, parts).write(fresh)
        shutil.rmtree(scratch)
    return card


def _check(parts: int, memory: str, threads: int | None) -> None:
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= _MOST_PARTS:
        raise ValueError(f"parts must be an integer in 1..{_MOST_PARTS}, got {parts!r}")
    if not _MEMORY.fullmatch(memory):
        raise ValueError(f"memory must be a size such as '2GB', got {memory!r}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be an integer of at least 1, got {threads!r}")


def _duckdb() -> Any:
    try:
        import duckdb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "preparing a store needs DuckDB and pyarrow; pip install pdrec_fast[store]"
        ) from error
    return duckdb


def _sources(data: str | Path) -> list[Source]:
    path = Path(data)
    paths = [path] if path.exists() else sorted(map(Path, glob.glob(str(data), recursive=True)))
    if not paths:
        raise FileNotFoundError(f"{data}: no such file, and no file fits it as a pattern")
    found = [source for each in paths for source in sources_of(each)]
    for source in found:
        if source.kind not in (*PARQUET, *DELIMITERS) or source.compression == ".zip":
            raise DataError(
                f"{source.path}: prepare reads Parquet and {', '.join(DELIMITERS)}, also with .gz "
                "or .zst; convert the file"
            )
        if source.kind != found[0].kind:
            raise DataError(f"{source.path}: of another kind than {found[0].path}; keep one kind")
    return found


@contextmanager
def _readable(duckdb: Any, source: _Files) -> Iterator[None]:
    """DuckDB's errors as ours, in one line."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"{source.given}: more memory is needed ({_line(error)}); raise memory=, --memory, or "
            "make room on the disk"
        ) from None
    except duckdb.Error as error:
        raise DataError(f"{source.given}: cannot be read ({_line(error)}); repair it") from None


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines[1:] if line.startswith("file =")]
    return "; ".join([*lines[:1], *named])


@dataclass(frozen=True)
class _Files:
    """Files of one kind as a table of DuckDB."""

    connection: Any
    given: str
    sources: list[Source]
    header: bool

    def labels(self) -> tuple[list[Any], list[str]]:
        """Labels of the columns, and their names in DuckDB.

        Raises:
            DataError: text files whose columns differ.
        """
        first = self.sources[0]
        if first.kind in PARQUET:
            if not self.header:
                raise ValueError(f"{first.path}: header=False, --no-header, is for text")
            names = [row[0] for row in self.rows(f"DESCRIBE SELECT * FROM {self.table()}")]
            return names, names
        found = [self._text_labels(source) for source in self.sources]
        for source, labels in zip(self.sources, found, strict=True):
            if labels != found[0]:
                raise DataError(
                    f"{source.path}: the columns are {labels}, not {found[0]} as in {first.path}"
                )
        return found[0], [f"c{place}" for place in range(len(found[0]))]

    def _text_labels(self, source: Source) -> list[Any]:
        try:
            with source.open_text() as lines:
                row = next((row for row in rows_of(source, lines) if row), None)
        except UnicodeDecodeError:
            raise DataError(source.describe_undecodable()) from None
        except csv.Error as error:
            raise unparsable(source, error, self.header) from None
        if row is None:
            raise NoRecordsError(f"{source.path}: the file is empty; expected records")
        return labels_of(row, source) if self.header else list(range(len(row)))

    def table(self, filename: bool = False) -> str:
        """What stands behind FROM."""
        files = "[" + ", ".join(quoted(source.path) for source in self.sources) + "]"
        first = self.sources[0]
        named = ", filename='file of the record'" if filename else ""
        if first.kind in PARQUET:
            return f"read_parquet({files}, union_by_name=true{named})"
        columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(self.labels()[0])))
        quote = '"' if first.quotes else ""
        return (
            f"read_csv({files}, auto_detect=false, header={str(self.header).lower()}, "
            f"delim={quoted(first.delimiter)}, quote='{quote}', escape='{quote}', "
            f"columns={{{columns}}}{named})"
        )

    def types(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {self.table()}")}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.connection.execute(query).fetchall()
        return found

    def value(self, query: str) -> Any:
        found = self.rows(query)
        return found[0][0] if found else None


class _Preparation:
    """One store being made of the tables ``staged`` (all records), ``kept`` and ``vocabulary``."""

    def __init__(self, files: _Files, names: ColumnNames, filters: Filters, parts: int) -> None:
        self._files = files
        self._filters = filters
        self._n_parts = parts
        labels, in_duckdb = files.labels()
        self._columns: Columns = resolve_columns(names, labels, files.given)
        self._names = ['"' + name.replace('"', '""') + '"' for name in in_duckdb]
        types = files.types()
        self._types = [types[name] for name in in_duckdb]
        self._time = self._time_column()

    def write(self, folder: Path) -> dict[str, Any]:
        """Fill the folder; returns the card."""
        self._stage()
        (user, user_kind), (item, item_kind) = self._id("u"), self._id("i")
        self._keep(user, item)
        self._files.connection.execute(
            "CREATE TABLE vocabulary AS SELECT i, (row_number() OVER (ORDER BY i) - 1)::INTEGER "
            "AS n FROM (SELECT DISTINCT i FROM kept)"
        )
        logger.info("%s: ids and items known; sorting", self._files.given)
        items = self._files.rows("SELECT i FROM vocabulary ORDER BY n")
        write_ids(folder / "item_ids", np.array([row[0] for row in items], object), item_kind)
        card = {
            "user_ids": user_kind,
            "item_ids": item_kind,
            "n_items": len(items),
            "timestamps": self._time is not None,
            "parts": self._write_parts(folder, user_kind),
        }
        write_card(folder, card)
        return card

    def _place(self, place: int) -> str:
        return f"{self._files.given}, column {self._columns.labels[place]!r}"

    def _time_column(self) -> TimeColumn | None:
        place = self._columns.timestamp
        if place is None:
            warnings.warn(
                f"no timestamps in {self._files.given} (if a column of another name holds them, "
                "pass timestamp=, on the command line --timestamp-column): the order of its "
                "records is taken as chronological",
                stacklevel=4,
            )
            return None
        dates = False
        if self._types[place] == "VARCHAR":
            first = self._files.value(
                f"SELECT {self._names[place]} FROM {self._files.table()} LIMIT 1"
            )
            with_dates = TextTimes()
            try:
                dates = with_dates.read([first or ""]).dated
            except BadTimeError:
                dates = False  # refused below, with its place
        return time_column(self._names[place], self._types[place], dates, self._place(place))

    def _stage(self) -> None:
        """All records, in the order of the source; refuses what cannot be used."""
        user, item = self._columns.user, self._columns.item
        ids = [
            id_column(self._names[place], self._types[place], self._place(place))
            for place in (user, item)
        ]
        self._is_text = {"u": ids[0][1], "i": ids[1][1]}
        times = "" if self._time is None else f", {self._time.value} AS t, {self._time.key} AS k"
        self._files.connection.execute(
            f"CREATE TABLE staged AS SELECT {ids[0][0]} AS u, {ids[1][0]} AS i{times}, "
            f"row_number() OVER () - 1 AS seq FROM {self._files.table()}"
        )
        n_records = self._files.value("SELECT count(*) FROM staged")
        if n_records == 0:
            raise NoRecordsError(no_records(self._files.given))
        logger.info("%s: %s records", self._files.given, f"{n_records:,}")
        timed = [] if self._time is None else ["t", "k"]
        bad = " OR ".join(f"{name} IS NULL" for name in ("u", "i", *timed))
        row = self._files.value(f"SELECT min(seq) FROM staged WHERE {bad}")
        if row is not None:
            self._refuse(row)

    def _refuse(self, seq: int) -> None:
        """Raises DataError for the record at ``seq``."""
        places = self._columns.used
        chosen = ", ".join(self._names[place] for place in places)
        numbered = (
            f'SELECT "file of the record" AS file, {chosen}, row_number() OVER () - 1 AS seq '
            f"FROM {self._files.table(filename=True)}"
        )
        file, *values, _ = self._files.rows(f"SELECT * FROM ({numbered}) WHERE seq = {seq}")[0]
        row = self._files.value(
            f"SELECT count(*) FROM ({numbered}) WHERE seq < {seq} AND file = {quoted(file)}"
        )
        source = next(one for one in self._files.sources if str(one.path) == file)

        def where(_: int, column: Any) -> str:
            if source.kind in PARQUET:
                return f"{file}, row {row} (counted from 0), column {column!r}"
            return f"{file}, line {line_of(source, row, self._files.header)}, column {column!r}"

        labels = [self._columns.labels[place] for place in places]
        values = [
            np.float32(value) if self._types[place] == "FLOAT" and value is not None else value
            for place, value in zip(places, values, strict=True)
        ]
        for label, value in list(zip(labels, values, strict=True))[:2]:
            (name,) = as_strings([value], label, where)
            if not name.strip():
                raise DataError(missing_id(where(0, label)))
        place, value = where(0, labels[2]), values[2]
        if value is None:
            raise DataError(f"{place}: timestamp is missing; repair the row")
        try:
            times_of(np.array([value]) if isinstance(value, np.float32) else [value])
        except BadTimeError as error:
            raise DataError(f"{place}: {error}") from None
        raise DataError(
            f"{place}: timestamp {str(value)!r} is not of the kind of the first record's, or too "
            "large, or a date that is not written as 2020-09-14T12:00:00.123456+02:00 (as text at "
            "most microseconds); convert the column to numbers or a datetime"
        )

    def _id(self, name: str) -> tuple[str, str]:
        """The ids of a staged column as they are in the end, and their kind in the store."""
        if not self._is_text[name]:
            return name, "int64"
        integer, whole = text_ids(name)
        truths = f"lower({name}) IN ({', '.join(map(quoted, TRUTH_VALUES))})"
        all_integers, all_whole, n_decimals, all_truths = self._files.rows(
            f"SELECT bool_and({integer}), bool_and({whole}), "
            f"count(*) FILTER (contains({name}, '.')), bool_and({truths}) FROM staged"
        )[0]
        if all_truths:
            place = self._columns.user if name == "u" else self._columns.item
            raise DataError(truth_values(self._place(place)))
        if all_integers:
            return f"{name}::BIGINT", "int64"
        if all_whole and n_decimals:
            self._tell(name, f"contains({name}, '.')", READ_AS_WHOLE)
            return f"split_part({name}, '.', 1)::BIGINT", "int64"
        stripped = f"regexp_replace({name}, '^\\s+|\\s+$', '', 'g')"
        self._tell(name, f"{stripped} IN ({', '.join(map(quoted, sorted(MISSING)))})", LIKE_MISSING)
        self._tell(name, f"{stripped} != {name}", WITH_SPACES)
        return name, "str"

    def _tell(self, name: str, condition: str, text: str) -> None:
        """Warns of ids that are odd, with how many records have such, and the first."""
        query = f"SELECT count(*), arg_min({name}, seq) FROM staged WHERE {condition}"
        n, first = self._files.rows(query)[0]
        if n:
            place = self._columns.user if name == "u" else self._columns.item
            text = text.replace("{first}", repr(first)).replace("{whole}", first.partition(".")[0])
            warnings.warn(f"{self._place(place)}: {text.replace('{n}', str(n))}", stacklevel=6)

    def _keep(self, user: str, item: str) -> None:
        """The records that the filters leave, with ids as they are in the end."""
        filters, order = self._filters, "seq" if self._time is None else "k, seq"
        times = "" if self._time is None else ", t, k"
        query = f"SELECT {user} AS u, {item} AS i{times}, seq FROM staged"
        conditions = self._in_range()
        if conditions:
            query += " WHERE " + " AND ".join(conditions)
        if filters.repeats != "keep":
            if filters.repeats == "last":
                order = ", ".join(f"{name} DESC" for name in order.split(", "))
            query = (
                f"SELECT * FROM ({query}) QUALIFY "
                f"row_number() OVER (PARTITION BY u, i ORDER BY {order}) = 1"
            )
        stored = filters.repeats != "keep" or filters.min_user > 1 or filters.min_item > 1
        self._files.connection.execute(f"CREATE {'TABLE' if stored else 'VIEW'} kept AS {query}")
        n_kept, before = self._files.value("SELECT count(*) FROM kept"), -1
        while n_kept != before and (filters.min_user > 1 or filters.min_item > 1):
            rare = [
                f"{name} IN (SELECT {name} FROM kept GROUP BY {name} HAVING count(*) < {least})"
                for name, least in (("u", filters.min_user), ("i", filters.min_item))
            ]
            self._files.connection.execute(f"DELETE FROM kept WHERE {' OR '.join(rare)}")
            before, n_kept = n_kept, self._files.value("SELECT count(*) FROM kept")
        if n_kept == 0:
            raise DataError(
                f"{self._files.given}: no record is left with min_user={filters.min_user}, "
                f"min_item={filters.min_item}, repeats={filters.repeats!r}, since="
                f"{filters.since!r}, until={filters.until!r}; lower the minima or widen the range"
            )
        logger.info("%s: %s records kept", self._files.given, f"{n_kept:,}")

    def _in_range(self) -> list[str]:
        found = []
        for name in ("since", "until"):
            given = getattr(self._filters, name)
            if given is None:
                continue
            if self._time is None:
                raise DataError(
                    f"{self._files.given}: {name}={given!r} needs timestamps, and there are none; "
                    "pass timestamp=, on the command line --timestamp-column"
                )
            query = "SELECT min(t), median(abs(t)), max(t) FROM staged"
            least, middle, most = self._files.rows(query)[0]
            sample = np.array([least, middle, middle, middle, most])  # their median is the median
            words = f"{name}={given}"
            moment = as_moment(given, name).in_unit_of(sample, self._time.dated, words)
            late = self._time.at_or_after(moment)
            found.append(late if name == "since" else f"NOT ({late})")
        return found

    def _write_parts(self, folder: Path, kind: str) -> list[dict[str, Any]]:
        """One pass over the records, in order; returns the parts' lines of the card."""
        digits = "('0x' || substr(md5(u::VARCHAR), 1, 8))::UBIGINT"
        bucket = "0::INTEGER" if self._n_parts == 1 else f"({digits} % {self._n_parts})::INTEGER"
        sizes = dict(self._files.rows(f"SELECT {bucket} AS b, count(*) FROM kept GROUP BY b"))
        time, order = ("", "seq") if self._time is None else (", t", "k, seq")
        relation = self._files.connection.sql(
            f"SELECT {bucket} AS b, u, n{time} FROM kept JOIN vocabulary USING (i) "
            f"ORDER BY b, u, {order}"
        )
        stream = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
        lines: list[dict[str, Any]] = []
        writer = self._writer(folder, 0, sizes)
        try:
            for batch in stream(_ROWS_PER_BLOCK):
                block = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
                numbers, users, items = block[:3]
                edges = np.flatnonzero(np.diff(numbers)) + 1
                for start, stop in zip([0, *edges], [*edges, len(numbers)], strict=True):
                    while len(lines) < (numbers[start] if stop > start else 0):
                        lines.append(writer.finish(kind))
                        writer = self._writer(folder, len(lines), sizes)
                    rows = slice(start, stop)
                    if stop > start:
                        writer.add(users[rows], items[rows], block[3][rows] if time else None)
            while len(lines) < self._n_parts:
                lines.append(writer.finish(kind))
                if len(lines) < self._n_parts:
                    writer = self._writer(folder, len(lines), sizes)
        finally:
            writer.close()
        return lines

    def _writer(self, folder: Path, number: int, sizes: dict[int, int]) -> PartWriter:
        n_records = sizes.get(number, 0)
        return PartWriter(folder, part_name(number), n_records, self._time is not None)
