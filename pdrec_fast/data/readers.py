"""Reading interactions from a file or a folder of parts.

Every reader ends in :class:`Records`. What cannot be used is refused with a
:class:`~pdrec_fast.errors.DataError` that names the place; what is odd is told in the remarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from pdrec_fast.data.arrow import read_arrow_file
from pdrec_fast.data.json_lines import read_json_lines
from pdrec_fast.data.plain_text import read_plain_text
from pdrec_fast.data.records import ColumnNames, NoRecordsError, Records, Remark, no_records
from pdrec_fast.data.sources import DELIMITERS, JSON_LINES, Source, sources_of
from pdrec_fast.data.text import read_text
from pdrec_fast.data.times import join_times
from pdrec_fast.errors import DataError


def read_file(path: str | Path, names: ColumnNames, header: bool = True) -> Records:
    """Read a file of one of ``sources.KINDS``, or a folder of such files.

    Args:
        header: whether the first line of a delimited text has the names of the columns; if not,
            they are given by position.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file cannot be used; names the file, line and column.
        MissingExtraError: a file that needs pyarrow, which is not installed.
        ValueError: no header, but no positions.
    """
    path = Path(path)
    sources = sources_of(path)
    _check_header(sources[0], names, header)
    if path.is_file():
        return _read(sources[0], names, header)
    parts = []
    for source in sources:
        with suppress(NoRecordsError):  # engines write parts of no rows, too
            parts.append(_read(source, names, header))
    if not parts:
        raise NoRecordsError(no_records(str(path)))
    return _join(parts, str(path))


def _check_header(source: Source, names: ColumnNames, header: bool) -> None:
    if header:
        return
    if source.kind not in DELIMITERS:
        raise ValueError(
            f"{source.path}: header=False, --no-header, is for {', '.join(DELIMITERS)}; "
            f"{source.kind} names its columns"
        )
    given = names._asdict().items()
    named = {key: name for key, name in given if name is not None and not isinstance(name, int)}
    if named or names.user is None or names.item is None:
        raise ValueError(
            f"{source.path}: without a header line columns are given by position, such as user=0, "
            "item=1, timestamp=2, on the command line --user-column 0 --item-column 1 "
            f"--timestamp-column 2; got {dict(given)}"
        )


def _read(source: Source, names: ColumnNames, header: bool) -> Records:
    if source.kind in JSON_LINES:
        return read_json_lines(source, names)
    if source.kind not in DELIMITERS:
        return read_arrow_file(source, names)
    plain = read_plain_text(source, names, header)
    return read_text(source, names, header) if plain is None else plain


def _join(parts: Sequence[Records], source: str) -> Records:
    """The records of all parts, one after the other."""
    first = parts[0]
    for part in parts[1:]:
        if (part.times is None) != (first.times is None):
            raise DataError(
                f"{part.source}: timestamps in some parts only, not as in {first.source}"
            )
        if part.times is not None and first.times and part.times.dated != first.times.dated:
            raise DataError(f"{part.source}: dates in one part, numbers in {first.source}")
    users, user_ids = _join_ids([(part.users, part.user_ids) for part in parts])
    items, item_ids = _join_ids([(part.items, part.item_ids) for part in parts])
    times = [part.times for part in parts if part.times is not None]
    ratings = [part.ratings for part in parts if part.ratings is not None]
    return Records(
        users,
        items,
        join_times(times) if times else None,
        user_ids,
        item_ids,
        source,
        np.concatenate(ratings) if ratings else None,
        _join_remarks(remark for part in parts for remark in part.remarks),
    )


def _join_ids(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the sorted ids of all parts, and these."""
    ids = [part for _, part in parts]
    if not all(part.dtype == np.int64 for part in ids):
        ids = [np.array(list(map(str, part.tolist())), dtype=object) for part in ids]
    distinct, numbers = np.unique(np.concatenate(ids), return_inverse=True)
    starts = np.cumsum([0, *map(len, ids)])
    shifted = [codes + start for (codes, _), start in zip(parts, starts, strict=False)]
    return numbers[np.concatenate(shifted)], distinct


def _join_remarks(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """One remark of every kind, with the first place and how often in all."""
    joined: dict[tuple[str, str], Remark] = {}
    for remark in remarks:
        before = joined.get(remark.kind)
        joined[remark.kind] = before._replace(n=before.n + remark.n) if before else remark
    return tuple(joined.values())
