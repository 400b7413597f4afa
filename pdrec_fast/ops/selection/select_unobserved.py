"""The first items of a user's order, and the item where the pool of negatives begins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.ops.arguments import observed_rows, per_row, score_matrix
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.selection._checks import check_ranks
from pdrec_fast.ragged import Ragged
from pdrec_fast.reference.selection import select_unobserved as reference


class Selection(NamedTuple):
    """What ``select_unobserved`` finds in each of B rows.

    Attributes:
        top_items: int32 [B, top_m], best first, filled up with -1.
        threshold_score: float32 [B], score of the item at ``first_rank``.
        threshold_item: int32 [B], that item.
    """

    top_items: torch.Tensor
    threshold_score: torch.Tensor
    threshold_item: torch.Tensor


def select_unobserved(
    scores: torch.Tensor,
    observed: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]],
    top_m: int,
    first_rank: npt.NDArray[np.int64] | torch.Tensor,
    impl: str = "auto",
) -> Selection:
    """``scores.masked_fill(observed, -inf).sort(dim=1, descending=True, stable=True)`` of every
    row: the first ``top_m`` items, and the item at ``first_rank``.

    The order is by descending score; equal scores (+0 and -0 are equal) by ascending item.
    With ``first_rank = floor(omega_m * l)``, l the number of unobserved items, the items at or
    after the threshold are the pool of noise-free negative sampling (PDRec, equation 3).

    Args:
        scores: float32 [B, N] on the CPU, infinities allowed; not modified.
        observed: (indptr int64 [B + 1], items int32): items to leave out, sorted and unique
            within a row.
        top_m: number of items to return per row, at least 0.
        first_rank: int64 [B], 0-based, below the row's number of unobserved items.
        impl: ``"auto"``, ``"cpp"`` or ``"reference"``; all give the same.

    Raises:
        ValueError: an argument is out of its range, or a row's pool would be empty; the message
            names the row.
        NonFiniteScoresError: a score is NaN.
        BackendError: the named implementation cannot run here.
    """
    chosen = choose("select_unobserved", impl, {"cpp": extension_problem, "reference": None})
    scores = score_matrix(scores)
    n_rows, n_items = scores.shape
    rows = observed_rows(observed, n_rows, n_items)
    if not 0 <= top_m < 2**31:
        raise ValueError(f"top_m must be at least 0, got {top_m}")
    ranks = per_row("first_rank", first_rank, np.int64, n_rows)
    check_ranks(ranks, rows.indptr, n_items)
    if chosen == "cpp":
        return _select_cpp(scores, rows, top_m, ranks)
    _check_numbers(scores)
    return Selection(*reference.select_unobserved(scores, rows, top_m, ranks))


def top_items(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of each row's ``k`` best scores, int64 [B, k]; ties to the lower item.

    Args:
        scores: float32 [B, N], on any device; there the result is too.

    Raises:
        NonFiniteScoresError: a score is NaN.
    """
    if scores.device.type != "cpu":
        _check_numbers(scores)
        return _top_by_keys(scores, k)
    n_rows = len(scores)
    nothing = np.zeros(n_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    selection = select_unobserved(scores, nothing, k, np.zeros(n_rows, dtype=np.int64))
    return selection.top_items.long()


def _top_by_keys(scores: torch.Tensor, k: int) -> torch.Tensor:
    """``torch.topk`` leaves the order of ties open: here no two keys are equal."""
    bits = (scores + 0.0).view(torch.int32).long()  # -0 + 0 is +0
    ascending = torch.where(bits < 0, -0x80000000 - bits, bits)  # as the floats they are bits of
    items = torch.arange(scores.shape[1], device=scores.device)
    return ((ascending << 32) - items).topk(k, dim=1).indices


def _check_numbers(scores: torch.Tensor) -> None:
    at = scores.isnan().nonzero()
    if len(at):
        raise _nan_error(*at[0].tolist())


def _nan_error(row: int, column: int) -> NonFiniteScoresError:
    return NonFiniteScoresError(
        f"scores must not be NaN, got one in row {row}, column {column}", row
    )


def _select_cpp(
    scores: torch.Tensor, observed: Ragged, top_m: int, ranks: npt.NDArray[np.int64]
) -> Selection:
    n_rows = len(scores)
    top_items = np.empty((n_rows, top_m), np.int32)
    threshold_score = np.empty(n_rows, np.float32)
    threshold_item = np.empty(n_rows, np.int32)
    nan_column = np.empty(n_rows, np.int32)
    extension.select_unobserved(
        scores.numpy(),
        observed.indptr,
        observed.values,
        ranks,
        top_items,
        threshold_score,
        threshold_item,
        nan_column,
        torch.get_num_threads(),
    )
    if (nan_column >= 0).any():
        row = int((nan_column >= 0).argmax())
        raise _nan_error(row, int(nan_column[row]))
    return Selection(
        torch.from_numpy(top_items),
        torch.from_numpy(threshold_score),
        torch.from_numpy(threshold_item),
    )
