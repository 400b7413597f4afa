"""Seeded changes of a few valid files: bits, cuts, copies, splices and words that readers trip
over."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

TOKENS = (
    b'"', b'""', b",", b"\t", b"\r", b"\n", b"\r\n", b"\n\n", b"\0", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b" ", b"\xc2\xa0", b"\xe2\x80\xa8", b"\x1c",
    b"nan", b"NaN", b"inf", b"-Infinity", b"null", b"None", b"true", b"1e400", b"1e308", b"-0",
    b"0x10", b"1_0", b"007", b"1.0", b"9007199254740993", b"9223372036854775807",
    b"9223372036854775808", b"-9223372036854775808", b"9" * 400, b"9" * 5000, b"\xd9\xa3",
    b"2020-02-30", b"2020-01-01", b"2020-01-01T00:00:00.000000001Z", b"1969-12-31 23:59:59+14:00",
    b"20200101", b"0001-01-01", b"9999-12-31T23:59:60", b"user_id", b"item_id", b"timestamp",
    b":float", b"{", b"}", b"[", b"]", b"[" * 3000, b'{"a":' * 2000, b"(" * 3000, b"\\", b"'",
    b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 8, b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"ARROW1",
    b"\x93NUMPY", b"<i8", b"|O", b">f4", b"=", b".", b"x" * 140_000,
)  # fmt: skip

_BREAK = re.compile(rb'[,\t\n":]')


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds, changed once to eight times."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        draw.choice(_CHANGES)(content, draw, seeds)
    return bytes(content)


def _place(content: bytearray, draw: random.Random) -> int:
    return draw.randrange(len(content) + 1)


def _flip(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _set(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    if content:
        content[draw.randrange(len(content))] = draw.choice(
            (0, 1, 127, 128, 255, draw.randrange(256))
        )


def _cut(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    del content[_place(content, draw) :]


def _remove(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    start = _place(content, draw)
    del content[start : start + draw.choice((1, 2, 8, 64))]


def _repeat(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    start = _place(content, draw)
    piece = content[start : start + draw.choice((1, 8, 64))]
    content[start:start] = piece * draw.choice((1, 2, 30))


def _insert(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    start = _place(content, draw)
    content[start:start] = draw.choice(TOKENS)


def _overwrite(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    start, token = _place(content, draw), draw.choice(TOKENS)
    content[start : start + len(token)] = token


def _field(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    """Put a word in the place of a field, which a mere insertion rarely makes."""
    breaks = [found.start() for found in _BREAK.finditer(content)]
    if len(breaks) > 1:
        number = draw.randrange(len(breaks) - 1)
        content[breaks[number] + 1 : breaks[number + 1]] = draw.choice(TOKENS)


def _splice(content: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    other = draw.choice(seeds)
    start = draw.randrange(len(other) + 1)
    content[_place(content, draw) :] = other[start:]


_CHANGES = (
    *(_flip, _flip, _set, _cut, _remove, _repeat, _insert, _insert),
    *(_overwrite, _field, _field, _splice),
)
