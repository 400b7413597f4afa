"""Scorers whose whole knowledge is one sparse matrix of items by items."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows, recorded, steps_until
from pdrec_fast.errors import NotFittedError
from pdrec_fast.fitting.bundle import Contents, OnCPU
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.denoising.sparse_product import sparse_product
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.select_unobserved import top_items
from pdrec_fast.ragged import indptr_of, row_indices

if TYPE_CHECKING:
    from typing_extensions import Self

_NEGLIGIBLE = 1e-7  # weight of a step back, relative to the latest

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # sources, targets (int64), values
ColumnsOf = Callable[[int, int], torch.Tensor]  # of items start .. stop: [stop - start, n_items]


class ItemMatrix(OnCPU):
    """Scores are ``x B``: x is the history, whose latest item weighs 1 and every earlier one
    ``config.decay`` times the one after it; B is sparse, and found by a subclass's ``fit``.

    Items of which B knows nothing, as those without a training record, do not count.

    Args:
        config: all settings; keyword arguments override single ones.
    """

    KIND: str
    CONFIG: ClassVar[type]
    foresees_repeats = False  # B has a diagonal of zeros

    def __init__(self, config: Any = None, **settings: Any) -> None:
        self.config = replace(config or self.CONFIG(), **settings)
        self.trained_on: str | None = None
        self.catalogue: Catalogue | None = None
        # Rows of B by source item: CSR.
        self._indptr = np.zeros(0, dtype=np.int64)
        self._targets = torch.zeros(0, dtype=torch.int32)
        self._values = torch.zeros(0, dtype=torch.float32)

    def _keep(self, entries: Entries, kept: np.ndarray, train: Interactions) -> None:
        """Take on the entries of B, in the order of their sources.

        Args:
            entries: their sources and targets are places in ``kept``.
            kept: int64, the items that B knows something of, ascending.
        """
        sources, targets, values = entries
        order = torch.argsort(sources, stable=True)
        lengths = np.zeros(train.n_items, dtype=np.int64)
        lengths[kept] = torch.bincount(sources, minlength=len(kept)).numpy()
        self._indptr = indptr_of(lengths)
        self._targets = torch.from_numpy(kept.astype(np.int32))[targets[order]]
        self._values = values[order]
        self.trained_on, self.catalogue = train.fingerprint(), train.catalogue

    @own_settings()
    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """``x B``.

        Args:
            histories: B of them.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N], on the CPU; 0 of an item that shares no user with the history.

        Raises:
            NotFittedError: there is no B yet.
            DataError: the histories are over other items.
        """
        self._check_fitted()
        n_items = len(self._indptr) - 1
        check_catalogue(histories, n_items, self.catalogue)
        histories = histories.only(np.diff(self._indptr) > 0)  # what says nothing takes no place
        steps = reading_steps(self.config.decay)
        if steps is not None:
            starts = np.maximum(histories.starts, histories.stops - steps)
            histories = replace(histories, starts=starts)
        indptr, sources, _ = histories.packed()
        steps_back = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(len(sources))
        weights = (self.config.decay**steps_back).astype(np.float32)
        scores = sparse_product(indptr, sources, weights, self.matrix, n_items)
        return scores if items is None else scores.gather(1, items)

    @property
    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """B in CSR form, by source item: indptr int64 [N + 1], targets int32 and values float32
        [entries]."""
        return self._indptr, self._targets.numpy(), self._values.numpy()

    def contents(self) -> Contents:
        """What ``save`` writes, and the bundle of a model that this guides."""
        self._check_fitted()
        tensors = {
            "indptr": torch.from_numpy(self._indptr),
            "targets": self._targets,
            "values": self._values,
        }
        meta = {"config": asdict(self.config), "trained_on": self.trained_on}
        if self.catalogue is not None:
            meta["catalogue"] = self.catalogue.fingerprint
        return meta, {"items": tensors}

    @classmethod
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The model of ``contents``, on the CPU whatever the device."""
        meta, files = contents
        model = cls(cls.CONFIG(**meta["config"]))
        model.trained_on = meta["trained_on"]
        if "catalogue" in meta:  # not in version 0.1.0
            model.catalogue = Catalogue.known_by(meta["catalogue"])
        tensors = files["items"]
        model._indptr = tensors["indptr"].numpy()
        model._targets, model._values = tensors["targets"].int(), tensors["values"]
        return model

    def _check_fitted(self) -> None:
        if self.trained_on is None:
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted: call fit(...) or {name}.load(...)")


def reading_steps(decay: float) -> int | None:
    """How many records back a history is read: where the latest weighs 1, what lies before them
    adds nothing. None: all."""
    return steps_until(_NEGLIGIBLE, decay) if decay < 1 else None


def user_rows(train: Interactions) -> SparseRows:
    """The users' interaction vectors, of zeros and ones; users without a record have none.

    Raises:
        DataError: nobody has one.
    """
    return interaction_rows(recorded(train), weighting="none", w_min=1.0, w_max=1.0)


def among(rows: SparseRows, kept: np.ndarray) -> SparseRows:
    """The rows over the items ``kept`` alone, renumbered; those without any are left out."""
    number = np.full(rows.n_items, -1)
    number[kept] = np.arange(len(kept))
    items = number[rows.items]
    there = items >= 0
    lengths = np.bincount(row_indices(rows.indptr)[there], minlength=len(rows))
    return SparseRows(indptr_of(lengths[lengths > 0]), items[there], rows.values[there], len(kept))


def transposed(rows: SparseRows) -> SparseRows:
    """Rows of items, over users."""
    order = np.argsort(rows.items, kind="stable")
    users = row_indices(rows.indptr)[order]
    counts = np.bincount(rows.items, minlength=rows.n_items)
    return SparseRows(indptr_of(counts), users, rows.values[order], len(rows))


def as_torch(rows: SparseRows) -> torch.Tensor:
    """The rows as one sparse tensor [B, n_items], for products with dense ones."""
    return torch.sparse_csr_tensor(
        torch.from_numpy(rows.indptr),
        torch.from_numpy(rows.items.astype(np.int64)),
        torch.from_numpy(rows.values),
        (len(rows), rows.n_items),
        check_invariants=False,
    )


def strongest(columns_of: ColumnsOf, n_items: int, neighbors: int) -> Entries:
    """The entries of B that are kept: of every column the largest by magnitude, without the
    diagonal; ties to the lower source.

    Args:
        columns_of: columns of B, some at a time, as rows; they are overwritten.
        neighbors: how many of a column; those that are 0 are not kept.
    """
    n_kept = min(neighbors, n_items)
    found = []
    step = rows_per_block(n_items)
    for start in range(0, n_items, step):
        targets = torch.arange(start, min(start + step, n_items))
        block = columns_of(start, start + len(targets))
        block[torch.arange(len(targets)), targets] = 0
        sources = top_items(block.abs(), n_kept)
        values = block.gather(1, sources)
        there = values != 0
        found.append((sources[there], targets[:, None].expand_as(sources)[there], values[there]))
    sources, targets, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return sources, targets, values


def _hear_of_the_beta() -> None:
    """Torch tells once in a process that such tensors are in beta; here they are only multiplied
    with dense ones. The filters of warnings are not a thread's own, so that this is the time to
    change them: while the package is imported, not in a fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        nothing = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        as_torch(SparseRows(np.zeros(2, dtype=np.int64), *nothing, 1))


_hear_of_the_beta()
