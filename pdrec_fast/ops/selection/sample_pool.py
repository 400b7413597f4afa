"""Uniform draws from the pools of noise-free negative sampling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.operands import DrawKey
from pdrec_fast.ops.arguments import observed_rows, per_row, random_keys, score_matrix
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.selection import sample_pool as reference


def sample_pool(
    scores: torch.Tensor,
    observed: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]],
    threshold_score: npt.NDArray[np.float32] | torch.Tensor,
    threshold_item: npt.NDArray[np.int32] | torch.Tensor,
    n_draws: int,
    *,
    seed: int,
    users: npt.NDArray[np.int64] | torch.Tensor,
    epoch: int = 0,
    replace: bool = True,
    impl: str = "auto",
) -> torch.Tensor:
    """``torch.multinomial(pool.float(), n_draws, replace)`` for the bool mask ``pool`` [B, N] of
    each row's pool, of which no matrix is made (PDRec, equation 3).

    The pool is the unobserved items that score below ``threshold_score``, or equal it and are not
    below ``threshold_item``. The draws depend on (seed, epoch, user) and the row alone:
    the words of the counter-based generator's stream ``NEGATIVES``, in order, name candidates
    ``(word * N) >> 32``, and those in the pool are the draws. Of a pool of fewer than N / 64
    items, a word names the item ``(word * pool size) >> 32`` of the ascending pool instead.

    Args:
        scores: float32 [B, N] on the CPU, without NaN (``select_unobserved`` refuses those).
        observed: (indptr int64 [B + 1], items int32), sorted and unique within a row.
        threshold_score: float32 [B], from ``select_unobserved``.
        threshold_item: int32 [B], from ``select_unobserved``.
        n_draws: draws per row, at least 0.
        seed: in 0 .. 2**64 - 1.
        users: int64 [B], in 0 .. 2**32 - 1: the user whose random numbers a row takes.
        epoch: in 0 .. 2**32 - 1.
        replace: whether an item may be drawn repeatedly; if not, repeats are passed over.
        impl: ``"auto"``, ``"cpp"`` or ``"reference"``; all give the same.

    Returns:
        int32 [B, n_draws].

    Raises:
        ValueError: an argument is out of its range, or a pool is empty or, without replacement,
            smaller than ``n_draws``.
        BackendError: the named implementation cannot run here.
    """
    chosen = choose("sample_pool", impl, {"cpp": extension_problem, "reference": None})
    scores = score_matrix(scores)
    n_rows, n_items = scores.shape
    rows = observed_rows(observed, n_rows, n_items)
    thresholds = (
        per_row("threshold_score", threshold_score, np.float32, n_rows),
        per_row("threshold_item", threshold_item, np.int32, n_rows),
    )
    if n_draws < 0:
        raise ValueError(f"n_draws must be at least 0, got {n_draws}")
    users = random_keys(seed, epoch, users, n_rows)
    if chosen == "reference":
        key = DrawKey(seed, epoch, torch.from_numpy(users))
        draws, pool_size = reference.sample_pool(scores, rows, *thresholds, n_draws, key, replace)
    else:
        draws = torch.empty((n_rows, n_draws), dtype=torch.int32)
        pool_size = np.empty(n_rows, np.int64)
        extension.sample_pool(
            scores.numpy(),
            rows.indptr,
            rows.values,
            *thresholds,
            replace,
            seed,
            epoch,
            users,
            draws.numpy(),
            pool_size,
            torch.get_num_threads(),
        )
    _check_pools(pool_size, n_draws, replace)
    return draws


def _check_pools(pool_size: npt.NDArray[np.int64], n_draws: int, replace: bool) -> None:
    needed = min(n_draws, 1) if replace else n_draws
    short = pool_size < needed
    if short.any():
        row = int(short.argmax())
        raise ValueError(
            f"row {row} has a pool of {pool_size[row]} items, too few for n_draws={n_draws} "
            f"with replace={replace}"
        )
