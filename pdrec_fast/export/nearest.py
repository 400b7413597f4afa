"""Nearest neighbours among the items of an export, by Faiss: the largest products with a vector."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.checks import check_whole
from pdrec_fast.errors import CheckpointError, MissingExtraError, one_line
from pdrec_fast.files import checksum, current_directory, read_json, whole_directory
from pdrec_fast.ops.selection.project import project, rows_per_block
from pdrec_fast.ops.selection.select_unobserved import top_items

Kind = Literal["flat", "hnsw", "ivfpq"]
Rows = Sequence[int] | npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]

KIND = "item index"
CARD = "index.json"
_FILE = "items.faiss"
_ROWS = "rows.npy"
# Up to here the exact search is as fast as a graph, see docs/serving.md; beyond, a graph of whole
# vectors takes too much memory.
_FLAT_UP_TO = 50_000
_GRAPH_UP_TO = 5_000_000
_LINKS = 32  # of a graph's item
_PART = 4  # numbers that a byte of a quantised vector stands for
_SAMPLE = 256  # queries that the effort is chosen on
_EFFORTS = tuple(16 << n for n in range(8))
_REFINED = 8  # of quantised vectors so many times k candidates are scored exactly


class ItemIndex:
    """The items with the largest products with a user's vector, exactly or nearly.

    Args:
        matrix: float32 [N, D], the item matrix; kept, not copied, and may be a memory map
            (``numpy.load("items.npy", mmap_mode="r")``): what is found has its exact score.
        index: a Faiss index over ``rows`` of it; None for ``"flat"``, which has no need of one.
        rows: int64 [n], ascending: the rows that can be found.
        kind: of the index.
        effort: how far it searches: ``efSearch`` of a graph, ``nprobe`` of an inverted file.
        recall: share of the exact best that it found when it was built; None: exact.
        threads: of a search.
    """

    def __init__(
        self,
        matrix: Floats,
        index: Any,
        rows: npt.NDArray[np.int64],
        kind: Kind,
        effort: int = 0,
        recall: float | None = None,
        threads: int | None = None,
    ) -> None:
        self.matrix, self.index, self.rows, self.kind = matrix, index, rows, kind
        self.effort, self.recall = effort, recall
        self.threads = _checked_threads(threads)

    @classmethod
    def build(
        cls,
        matrix: Floats,
        *,
        rows: npt.NDArray[np.bool_] | None = None,
        kind: Kind | None = None,
        recall: float = 0.95,
        k: int = 100,
        queries: Floats | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> ItemIndex:
        """Index the rows of an item matrix.

        Args:
            matrix: float32 [N, D], finite.
            rows: bool [N], which can be found; None for all. Of an export: those whose line of
                ``items.jsonl`` says ``recommended``.
            kind: ``"flat"`` takes all products, exactly; ``"hnsw"`` is a graph; ``"ivfpq"`` an
                inverted file of quantised vectors, D / 4 bytes an item. None goes by the number of
                items.
            recall: share of the exact best ``k`` that the search finds of ``queries``: its effort
                is doubled until then, or until it is at its highest.
            queries: float32 [Q, D] user vectors, of which the first 256 are taken; None takes
                items, which are not what users look like.
            threads: of Faiss, here and in searches; None as many as torch has. ``"flat"`` takes
                torch's.
            seed: of the sample of items and of the quantiser's clusters.

        Raises:
            ValueError: an argument out of its range or of another shape.
            MissingExtraError: Faiss is not installed.
        """
        matrix = _checked_matrix(matrix)
        check_whole(k=k)
        if not 0 < recall <= 1:
            raise ValueError(f"recall must lie in (0, 1], got {recall}")
        kept = np.arange(len(matrix)) if rows is None else np.flatnonzero(np.asarray(rows))
        if rows is not None and np.shape(rows) != (len(matrix),):
            raise ValueError(f"rows has shape {np.shape(rows)}, not ({len(matrix)},)")
        if not len(kept):
            raise ValueError("rows leaves no item to index")
        if kind is None:
            kind = _kind_for(len(kept))
        elif kind not in get_args(Kind):
            raise ValueError(f"unknown kind={kind!r}; choose one of {get_args(Kind)}")
        if kind == "flat":
            return cls(matrix, None, kept, kind, threads=threads)
        _faiss().omp_set_num_threads(_checked_threads(threads))
        items = np.ascontiguousarray(matrix[kept]) if len(kept) < len(matrix) else matrix
        made = cls(matrix, _new_index(items, kind, seed), kept, kind, threads=threads)
        if queries is None:
            chosen = np.random.default_rng(seed).choice(kept, min(_SAMPLE, len(kept)), False)
            queries = matrix[np.sort(chosen)]
        made._choose_effort(made._checked_vectors(queries[:_SAMPLE]), k, recall)
        return made

    def search(
        self,
        vectors: Floats,
        k: int = 10,
        *,
        exclude: Rows | Sequence[Rows] | None = None,
        allow: Rows | Sequence[Rows] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """The ``k`` best rows of each vector.

        Args:
            vectors: float32 [B, D], of the exported encoder.
            k: how many.
            exclude: rows that are not to be found, such as what a user has seen: a list for all, or
                one for each vector.
            allow: the only rows that are; likewise.

        Returns:
            (rows int64 [B, k], best first, -1 where fewer are left; their exact products float32
            [B, k], -inf there). Of equal products the lower row comes first.

        Raises:
            ValueError: a shape or a row that does not fit.
            TypeError: rows that are no list or array, such as a set; ``k`` is no whole number.
        """
        vectors = self._checked_vectors(vectors)
        check_whole(k=k)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if self.index is not None:
            _faiss().omp_set_num_threads(self.threads)
        lists = [self._filters("exclude", exclude, vectors), self._filters("allow", allow, vectors)]
        if all(len(each) == 1 for each in lists):
            return self._search(vectors, k, lists[0][0], lists[1][0])
        excluded, allowed = (each * len(vectors) if len(each) == 1 else each for each in lists)
        found = [
            self._search(vectors[row : row + 1], k, excluded[row], allowed[row])
            for row in range(len(vectors))
        ]
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def recall_at(self, vectors: Floats, k: int) -> float:
        """Share of the exact ``k`` best items of ``vectors`` [B, D] that ``search`` finds."""
        vectors = self._checked_vectors(vectors)
        return self._recall(vectors, self._exact(vectors, k))

    def _exact(self, vectors: Floats, k: int) -> npt.NDArray[np.int64]:
        return self._products(vectors, min(k, len(self.rows)), None, None)[0]

    def _products(
        self,
        vectors: Floats,
        k: int,
        exclude: npt.NDArray[np.int64] | None,
        allow: npt.NDArray[np.int64] | None,
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """``_search`` by the products with all items: faster in batches than Faiss's own."""
        hidden = torch.ones(len(self.matrix), dtype=torch.bool)
        hidden[self.rows if allow is None else self.rows[allow]] = False
        if exclude is not None:
            hidden[self.rows[exclude]] = True
        with warnings.catch_warnings():  # it is only read
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            table = torch.from_numpy(np.asarray(self.matrix))
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        best = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        n_found = min(k, len(table))
        step = rows_per_block(len(table))
        for start in range(0, len(vectors), step):
            block = slice(start, start + step)
            scores = project(torch.from_numpy(vectors[block]), table)
            scores.masked_fill_(hidden, -torch.inf)
            top = top_items(scores, n_found)
            best[block, :n_found] = scores.gather(1, top)
            rows[block, :n_found] = top
        rows[best == -np.inf] = -1
        return rows, best

    def _recall(self, vectors: Floats, exact: npt.NDArray[np.int64]) -> float:
        found = self.search(vectors, exact.shape[1])[0]
        same = [len(np.intersect1d(*pair)) for pair in zip(exact, found, strict=True)]
        return float(np.mean(same)) / exact.shape[1]

    def save(self, path: str | Path) -> None:
        """Write the index, without the matrix, to the directory ``path``; an earlier one is
        replaced.

        Raises:
            CheckpointError: something else lies there.
        """
        with whole_directory(path, KIND, CARD, _is_part) as folder:
            np.save(folder / _ROWS, self.rows)
            if self.index is not None:
                _faiss().write_index(self.index, str(folder / _FILE))
            card = {
                "kind": self.kind,
                "effort": self.effort,
                "recall": self.recall,
                "shape": list(self.matrix.shape),
                "matrix": _fingerprint(self.matrix),
                "files": {file.name: checksum(file) for file in sorted(folder.iterdir())},
            }
            (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, matrix: Floats, *, threads: int | None = None) -> ItemIndex:
        """Read what ``save`` wrote; ``matrix`` is the one that it was built of.

        Raises:
            CheckpointError: missing, damaged, or of another matrix.
        """
        folder = current_directory(path, CARD)
        try:
            card = _checked_card(read_json(folder / CARD))
            files, meant = card["files"], (tuple(card["shape"]), card["matrix"])
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no {KIND} is saved here ({CARD} not found)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / CARD}: damaged ({error})") from None
        for name, wanted in files.items():
            file = folder / name
            if not file.is_file() or checksum(file) != wanted:
                raise CheckpointError(f"{file}: missing or damaged; build the index again")
        if (matrix.shape, _fingerprint(matrix)) != meant:
            raise CheckpointError(f"{path}: the index of another item matrix; build it again")
        try:
            index = _faiss().read_index(str(folder / _FILE)) if _FILE in files else None
            with open(folder / _ROWS, "rb") as stream:
                rows = np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: cannot be read ({one_line(error)}); build the index again"
            ) from None
        return cls(matrix, index, rows, card["kind"], card["effort"], card["recall"], threads)

    def _search(
        self,
        vectors: Floats,
        k: int,
        exclude: npt.NDArray[np.int64] | None,
        allow: npt.NDArray[np.int64] | None,
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """``search`` with one filter for all, by places in the index."""
        if self.index is None:
            return self._products(vectors, k, exclude, allow)
        faiss = _faiss()
        if allow is not None:
            # A graph finds few of few allowed items, while their products cost next to nothing.
            left = allow if exclude is None else np.setdiff1d(allow, exclude)
            if len(left) <= max(_FLAT_UP_TO, k):
                candidates = np.broadcast_to(self.rows[left], (len(vectors), len(left)))
                return _best(vectors, self.matrix, candidates, k)
        selectors = []
        if exclude is not None and len(exclude):
            selectors.append(faiss.IDSelectorNot(faiss.IDSelectorBatch(exclude)))
        if allow is not None:
            selectors.append(faiss.IDSelectorBatch(allow))
        selector = None
        if selectors:
            selector = selectors[0] if len(selectors) == 1 else faiss.IDSelectorAnd(*selectors)
        wanted = min(k * (_REFINED if self.kind == "ivfpq" else 1), len(self.rows))
        asked = _padded(vectors) if self.kind == "ivfpq" else vectors
        _, places = self.index.search(asked, wanted, params=self._parameters(selector, wanted))
        candidates = np.where(places >= 0, self.rows[places], -1)
        return _best(vectors, self.matrix, candidates, k)

    def _parameters(self, selector: Any, wanted: int) -> Any:
        faiss, effort = _faiss(), self.effort
        given: dict[str, Any] = {}
        if selector is not None:  # much of what is visited does not count then
            given, effort = {"sel": selector}, 4 * effort
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(effort, wanted), **given)
        return faiss.SearchParametersIVF(nprobe=effort, **given)

    def _choose_effort(self, queries: Floats, k: int, recall: float) -> None:
        exact = self._exact(queries, k)
        for effort in _EFFORTS:
            self.effort = effort
            self.recall = self._recall(queries, exact)
            if self.recall >= recall:
                return

    def _filters(
        self, name: str, given: Rows | Sequence[Rows] | None, vectors: Floats
    ) -> list[npt.NDArray[np.int64] | None]:
        """One list of places in the index for all vectors, or one for each."""
        if given is None:
            return [None]
        _check_rows(name, given)
        if len(given) == 0 or (np.ndim(given[0]) == 0 and not isinstance(given[0], Set)):
            lists: list[Any] = [given]
        elif len(given) == len(vectors):
            lists = list(given)
        else:
            raise ValueError(f"{name} has {len(given)} lists for {len(vectors)} vectors")
        return [self._places(name, each) for each in lists]

    def _places(self, name: str, rows: Rows) -> npt.NDArray[np.int64]:
        _check_rows(name, rows)
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        outside = wanted[(wanted < 0) | (wanted >= len(self.matrix))]
        if len(outside):
            raise ValueError(
                f"{name} has the row {outside[0]}; the matrix has 0..{len(self.matrix) - 1}"
            )
        places = np.searchsorted(self.rows, wanted)
        there = places < len(self.rows)
        there[there] = self.rows[places[there]] == wanted[there]
        return places[there]

    def _checked_vectors(self, vectors: Floats) -> Floats:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"vectors have shape {list(vectors.shape)}; the items' are [B, "
                f"{self.matrix.shape[1]}]"
            )
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ValueError(f"vector {row} is not finite")
        return vectors


def _check_rows(name: str, rows: Any) -> None:
    if not isinstance(rows, (Sequence, np.ndarray)) or isinstance(rows, (str, bytes)):
        raise TypeError(
            f"{name} must be a list or an array of rows, or one for each vector, got a "
            f"{type(rows).__name__}"
        )


def _best(
    vectors: Floats, matrix: Floats, candidates: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The best ``k`` of the candidates [B, C], -1 of them being none, by their exact products."""
    rows = np.full((len(vectors), k), -1, dtype=np.int64)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for query in range(len(vectors)):
        found = candidates[query][candidates[query] >= 0]
        products = matrix[found] @ vectors[query]
        order = np.lexsort((found, -products))[:k]
        rows[query, : len(order)], scores[query, : len(order)] = found[order], products[order]
    return rows, scores


def _new_index(items: Floats, kind: Kind, seed: int) -> Any:
    faiss, (n_items, width) = _faiss(), items.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
    else:
        items = _padded(items)
        width = items.shape[1]
        lists = max(int(n_items**0.5), 1)
        quantizer = faiss.IndexFlatIP(width)
        product = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFPQ(quantizer, width, lists, width // _PART, 8, product)
        index.cp.seed = seed
    if not index.is_trained:
        index.train(items)
    index.add(items)
    return index


def _padded(vectors: Floats) -> Floats:
    """With zeros up to a width that quantised parts fill."""
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % _PART)))


def _kind_for(n_items: int) -> Kind:
    if n_items <= _FLAT_UP_TO:
        return "flat"
    return "hnsw" if n_items <= _GRAPH_UP_TO else "ivfpq"


def _checked_card(card: Any) -> dict[str, Any]:
    """A card as ``save`` writes it; raises KeyError, TypeError or ValueError for another one."""
    kind, effort, recall, files = (card[key] for key in ("kind", "effort", "recall", "files"))
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}")
    check_whole(effort=effort)
    if not 0 <= effort < 1 << 29:  # a search takes up to four times as much, in 31 bits
        raise ValueError(f"effort is {effort}")
    if not (recall is None or (isinstance(recall, float) and 0 <= recall <= 1)):
        raise ValueError(f"recall is {recall!r}")
    wanted = {_ROWS} if kind == "flat" else {_ROWS, _FILE}
    if not isinstance(files, dict) or set(files) != wanted:
        raise ValueError(f"files are not {', '.join(sorted(wanted))}")
    return dict(card)


def _checked_matrix(matrix: Floats) -> Floats:
    if matrix.ndim != 2 or matrix.dtype != np.float32 or not len(matrix):
        raise ValueError(
            f"matrix must be float32 [N, D], got {matrix.dtype} of shape {list(matrix.shape)}"
        )
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"row {row} of matrix is not finite")
    return matrix


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return threads


def _fingerprint(matrix: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).view(np.uint8).data).hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError(
            "an index of items needs Faiss: pip install 'pdrec_fast[faiss]'"
        ) from None
    return faiss


def _is_part(file: Path) -> bool:
    return file.name in (CARD, _FILE, _ROWS)
