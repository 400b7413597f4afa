"""JSON lines: one object a line."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from pdrec_fast.data.ids import as_strings
from pdrec_fast.data.records import ColumnNames, NoRecordsError, Records, resolve_columns
from pdrec_fast.data.sources import Source
from pdrec_fast.data.text import ROWS_PER_CHUNK, RecordBuilder
from pdrec_fast.errors import DataError


def read_json_lines(source: Source, names: ColumnNames) -> Records:
    """Read a ``.jsonl`` or ``.ndjson`` file; the keys of its first object are its columns.

    Raises:
        DataError: the file cannot be used; names the file, line and key.
    """

    def where(row: int, column: Any) -> str:
        return f"{source.path}, line {_line_of(source, row)}, key {column!r}"

    try:
        with source.open_text() as lines:
            numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
            rows = (_object(line, number, source) for number, line in numbered)
            first = next(rows, None)
            if first is None:
                raise NoRecordsError(f"{source.path}: the file is empty; expected JSON objects")
            if any(isinstance(name, int) for name in names):
                raise DataError(f"{source.path}: keys have names, not positions; pass their names")
            columns = resolve_columns(names, list(first), str(source.path))
            keys = [columns.labels[place] for place in columns.used]
            builder = RecordBuilder(columns, where)
            chunk = [first]
            while chunk := chunk + list(islice(rows, ROWS_PER_CHUNK)):
                _check_times(chunk, columns.timestamp, builder.n_rows, where)
                users, items, *others = ([row.get(key) for row in chunk] for key in keys)

                def in_file(row: int, column: Any, before: int = builder.n_rows) -> str:
                    return where(before + row, column)

                builder.add(
                    as_strings(users, keys[0], in_file),
                    as_strings(items, keys[1], in_file),
                    *others,
                )
                chunk = []
    except UnicodeDecodeError:
        raise DataError(source.describe_undecodable()) from None
    return builder.finish(str(source.path))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that occurs twice, one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} occurs more than once")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def _object(line: str, number: int, source: Source) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line)
        problem = f"it is a JSON {type(found).__name__}"
    except ValueError as error:
        found, problem = None, str(error)
    except RecursionError:
        found, problem = None, "it is nested too deeply"
    if isinstance(found, dict):
        return found
    raise DataError(
        f"{source.path}, line {number}: not a JSON object ({problem}); every line holds one, such "
        'as {"user_id": 1, "item_id": 2, "timestamp": 3}'
    )


def _check_times(
    chunk: list[dict[str, Any]], timestamp: int | None, before: int, where: Any
) -> None:
    """Records whose time would go unread because the first record has none."""
    if timestamp is not None:
        return
    for row, found in enumerate(chunk, before):
        if "timestamp" in found:
            raise DataError(
                f"{where(row, 'timestamp')}: the first record has no such key; give all records "
                "one, or none"
            )


def _line_of(source: Source, row: int) -> int:
    """Line (the first is 1) of an object, by its number from 0."""
    with source.open_text() as lines:
        numbers = (number for number, line in enumerate(lines, 1) if line.strip())
        return next(islice(numbers, row, None))
