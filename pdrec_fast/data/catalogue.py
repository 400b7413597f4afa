"""Which items the indices of a data set stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

_IDS_PER_PIECE = 1 << 16


def json_of(ids: np.ndarray, *, as_text: bool = False) -> Iterator[bytes]:
    """``json.dumps(ids.tolist()).encode()`` in pieces, for digests of very many ids.

    Args:
        as_text: each id as ``str`` gives it.
    """
    yield b"["
    for start in range(0, len(ids), _IDS_PER_PIECE):
        some = ids[start : start + _IDS_PER_PIECE].tolist()
        text = json.dumps(list(map(str, some)) if as_text else some)
        yield (", " if start else "").encode() + text[1:-1].encode()
    yield b"]"


class Catalogue:
    """The identity of N items in their order: cheap to hand on, to compare and to pickle.

    A data set, its parts and their histories share one array of raw ids, so that the comparison is
    one of addresses; ids are read only where two data sets meet.

    Args:
        item_ids: [N] distinct raw ids, not changed afterwards.
    """

    def __init__(self, item_ids: np.ndarray) -> None:
        self._item_ids: np.ndarray | None = item_ids

    @classmethod
    def known_by(cls, fingerprint: str) -> Catalogue:
        """That of a saved model, of which nothing but the fingerprint is left."""
        found = cls.__new__(cls)
        found._item_ids = None
        found.fingerprint = fingerprint
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Catalogue.known_by, (self.fingerprint,)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any id and with their order; ``17`` and ``"17"``
        are the same item, as everywhere."""
        assert self._item_ids is not None
        digest = hashlib.sha256()
        for piece in json_of(self._item_ids, as_text=True):
            digest.update(piece)
        return digest.hexdigest()[:16]

    def is_that_of(self, other: Catalogue) -> bool:
        """Whether the same indices stand for the same items."""
        if self is other or (self._item_ids is not None and self._item_ids is other._item_ids):
            return True
        return self.fingerprint == other.fingerprint
