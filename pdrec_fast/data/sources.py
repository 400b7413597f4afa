"""Files as they lie on disk: their kinds, compression, and folders of parts."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pdrec_fast.errors import DataError, MissingExtraError

DELIMITERS = {".inter": "\t", ".tsv": "\t", ".csv": ","}
JSON_LINES = (".jsonl", ".ndjson")
ARROW = (".arrow", ".feather", ".ipc")
PARQUET = (".parquet",)
_TEXT = (*DELIMITERS, *JSON_LINES)
KINDS = (*_TEXT, *PARQUET, *ARROW)
COMPRESSIONS = (".gz", ".zst", ".zip")

_MAGIC = {b"\x1f\x8b": "gzip", b"(\xb5/\xfd": "zstd", b"PK\x03\x04": "zip", b"PAR1": "Parquet"}
_MOST_TIMES = 100  # text of records is a twentieth of its size at best
_ALWAYS_UNPACKED = 1 << 28  # bytes, however small the file
# What gzip, zipfile and the methods of a .zip raise for bytes that they cannot read.
_DAMAGED = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_SUFFIX_OF = {"gzip": "{name}.gz", "zstd": "{name}.zst", "zip": "{name}.zip"}


@dataclass(frozen=True)
class Source:
    """One file to read.

    Attributes:
        path: where it is, as in messages.
        kind: the suffix that says how to read it, one of ``KINDS``.
        compression: one of ``COMPRESSIONS``, or empty.
    """

    path: Path
    kind: str
    compression: str = ""

    @property
    def delimiter(self) -> str:
        return DELIMITERS[self.kind]

    @property
    def quotes(self) -> bool:
        """Whether quotation marks around a field are not part of it."""
        return self.kind == ".csv"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content, decompressed.

        Raises:
            DataError: it cannot be decompressed.
        """
        if not self.compression:
            with open(self.path, "rb") as file:
                yield file
            return
        try:
            with open(self.path, "rb") as packed, _unpacked(self, packed) as file:
                yield io.BufferedReader(_Bounded(file, packed, self.path), 1 << 20)
        except (FileNotFoundError, PermissionError):
            raise
        except _DAMAGED as error:
            raise DataError(
                f"{self.path}: cannot be decompressed ({error}); is the file complete, and really "
                f"{self.compression}?"
            ) from None

    @contextmanager
    def open_text(self) -> Iterator[TextIO]:
        """Its lines, UTF-8, line breaks as they are."""
        with self.open() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            yield text

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()

    def describe_undecodable(self) -> str:
        """The message for content that is not UTF-8."""
        content = self.read()
        for magic, name in _MAGIC.items():
            if content.startswith(magic):
                end = _SUFFIX_OF.get(name, self.path.stem + ".parquet")
                return (
                    f"{self.path}: this is a {name} file; name it "
                    f"{end.replace('{name}', self.path.name)!r}"
                )
        try:
            content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            return f"{self.path}, line {line}: not UTF-8 text ({error.reason}); save it as UTF-8"
        raise AssertionError(f"{self.path} changed while it was read")


def sources_of(path: Path) -> list[Source]:
    """The file at ``path``; or the files of that folder in the order of their names, without hidden
    ones, those that begin with ``_``, and check sums (``.crc``).

    Raises:
        FileNotFoundError: nothing is there.
        DataError: a file of unknown kind, or a folder of several kinds or none.
    """
    if path.is_file():
        return [_source(path)]
    if not path.is_dir() and path.exists():
        raise DataError(
            f"{path}: neither a file nor a folder; save a pipe's data to a file, named by its kind"
        )
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file")
    parts = sorted(part for part in path.rglob("*") if part.is_file() and _holds_data(part, path))
    sources = [_source(part) for part in parts]
    kinds = sorted({source.kind for source in sources})
    if not kinds:
        raise DataError(f"{path}: the folder holds no parts of data ({', '.join(KINDS)})")
    if len(kinds) > 1:
        raise DataError(
            f"{path}: the folder holds parts of several kinds ({', '.join(kinds)}); keep one kind"
        )
    return sources


def _holds_data(part: Path, folder: Path) -> bool:
    names = part.relative_to(folder).parts
    return part.suffix != ".crc" and not any(name.startswith(("_", ".")) for name in names)


def _source(path: Path) -> Source:
    kind, compression = path.suffix.lower(), ""
    if kind in COMPRESSIONS:
        kind, compression = Path(path.stem).suffix.lower(), kind
        if compression == ".zip" and kind not in _TEXT:
            with Source(path, "", compression).open(), zipfile.ZipFile(path) as archive:
                kind = Path(_member(archive, path)).suffix.lower()
        if kind not in _TEXT:
            raise DataError(
                f"{path}: compressed files hold text, {', '.join(_TEXT)}; name it so, such as "
                f"{path.stem}.csv{compression}, and leave Parquet and Arrow files as they are"
            )
    if kind not in KINDS:
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; {_known()}")
    return Source(path, kind, compression)


def _known() -> str:
    return (
        f"name the file as one of {', '.join(KINDS)}, text with {', '.join(COMPRESSIONS)} after "
        "it where it is compressed"
    )


def _unpacked(source: Source, packed: BinaryIO) -> BinaryIO:
    if source.compression == ".gz":
        return gzip.GzipFile(fileobj=packed)  # type: ignore[return-value]
    if source.compression == ".zip":
        try:
            archive = zipfile.ZipFile(packed)
            return archive.open(_member(archive, source.path))  # type: ignore[return-value]
        except UnicodeDecodeError as error:  # the name is damaged, in either of its two places
            raise zipfile.BadZipFile(str(error)) from None
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            f"{source.path}: reading .zst needs pyarrow; pip install pdrec_fast[frames]"
        ) from error
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(packed), "zstd")


class _Bounded(io.RawIOBase):
    """What a compressed file unpacks to, refused where that is far more than records ever are: a
    few megabytes can hold terabytes of zeros.

    Args:
        unpacked: what is read.
        packed: what ``unpacked`` reads.

    Raises:
        DataError: on reading.
    """

    def __init__(self, unpacked: BinaryIO, packed: BinaryIO, path: Path) -> None:
        self._unpacked, self._packed, self._path = unpacked, packed, path
        self._n_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._unpacked.read(len(buffer))
        self._n_read += len(piece)
        if self._n_read > max(_MOST_TIMES * self._packed.tell(), _ALWAYS_UNPACKED):
            raise DataError(
                f"{self._path}: unpacks to more than {_MOST_TIMES} times its size, as no file of "
                "records does; if it is one, unpack it and give that file"
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        pieces = bytearray()
        while piece := self.read(1 << 20):
            pieces += piece
        return bytes(pieces)


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    """Name of the one file in an archive."""
    names = [
        info.filename
        for info in archive.infolist()
        # A damaged one may have no name, which ``is_dir`` does not take.
        if info.filename and not info.is_dir() and not info.filename.startswith(("__MACOSX/", "."))
    ]
    if len(names) != 1:
        raise DataError(f"{path}: the archive holds {len(names)} files, not one; unpack it")
    return names[0]
