"""What preferences keep of each user's scores, without the matrix of scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.ops.arguments import (
    check_random_key,
    check_tensors,
    observed_rows,
    per_row,
    random_keys,
    signed_seed,
)
from pdrec_fast.ops.dispatch import choose, logger
from pdrec_fast.reference.selection import sample_pool as pool_sampling
from pdrec_fast.reference.selection import select_projected as reference
from pdrec_fast.reference.selection import select_unobserved as selection

Values = npt.NDArray[Any] | torch.Tensor

_BAD = 3  # a row's argument, among the states of projected_selection

# Below so many items the scores of a block are few, and a library's product and sort are as fast.
_SMALL_CORPUS = 1 << 14


class ProjectedSelection(NamedTuple):
    """What ``select_projected`` finds in each of B rows.

    Attributes:
        top_items: int32 [B, top_m], the best unobserved items, best first, filled up with -1.
        threshold_score: float32 [B], score of the unobserved item at ``first_rank``.
        threshold_item: int32 [B], that item.
        observed_scores: float32 [nnz], scores of the observed items.
        draws: int32 [B, n_draws], from the items at or after the threshold.
    """

    top_items: torch.Tensor
    threshold_score: torch.Tensor
    threshold_item: torch.Tensor
    observed_scores: torch.Tensor
    draws: torch.Tensor


@torch.no_grad()
def select_projected(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    observed: tuple[Values, Values],
    top_m: int,
    first_rank: Values,
    n_draws: int,
    *,
    seed: int,
    users: Values,
    epoch: int = 0,
    impl: str = "auto",
    tile: Any = None,
) -> ProjectedSelection:
    """``select_unobserved`` and ``sample_pool`` on the scores ``vectors @ table.T + bias``.

    The order, the pool and the draws are those two operations'; equal scores give equal results.
    Products are of ``table``'s dtype, sums and scores float32. Without gradient.

    Args:
        vectors: [B, H], cast to ``table``'s dtype.
        table: [N, H], float32 or bfloat16. bias: [N].
        observed: (indptr int64 [B + 1], items int32 [nnz]), sorted and unique within a row.
        top_m: number of items to return per row, at least 0.
        first_rank: int64 [B], 0-based, below the row's number of unobserved items.
        n_draws: draws per row, with replacement, at least 0.
        seed, users, epoch: see ``sample_pool``.
        impl: ``"auto"``, ``"triton"`` (a GPU): scores are used where they are made; a row whose
            scores are too tied for its short lists, or spread such that a sample of them misled,
            is done again by ``"materialized"``: product, sort and masks in PyTorch, on any device.
            ``"reference"``: on a CPU, by the references of the two operations. ``auto`` takes
            ``"materialized"`` for corpora of less than 16,384 items.
        tile: of ``"triton"``: ``kernels.triton.score_tiles.Tile``; None chooses by shape.

    ``observed``, ``first_rank`` and ``users`` are checked and copied to the device of ``vectors``.
    Tensors that lie on a GPU already are checked in shape and dtype, and ``first_rank`` in value:
    ``"triton"`` waits for the GPU once a call.

    Raises:
        ValueError: an argument is out of its range, a vector is not finite, a row's pool would be
            empty, or a score is NaN.
        BackendError: the named implementation cannot run here.
    """
    _check_matrices(vectors, table, bias)
    chosen = choose("select_projected", impl, _offered(vectors, table))
    if top_m < 0 or n_draws < 0:
        raise ValueError(f"top_m and n_draws must be at least 0, got {top_m=}, {n_draws=}")
    indptr, items, first_rank, users = _rows(
        vectors, table, observed, first_rank, seed, epoch, users
    )
    if chosen == "triton" and len(vectors):
        return _select_triton(
            vectors,
            table,
            bias,
            indptr,
            items,
            top_m,
            first_rank,
            n_draws,
            seed,
            epoch,
            users,
            tile,
        )
    _check_values(vectors, indptr, first_rank, len(table))
    rows = indptr, items, top_m, first_rank, n_draws, seed, epoch, users
    if chosen != "reference":
        return ProjectedSelection(*reference.select_materialized(vectors, table, bias, *rows))
    return _select_reference(reference.projected_scores(vectors, table, bias), *rows)


def _offered(vectors: torch.Tensor, table: torch.Tensor) -> dict[str, str | None]:
    device = vectors.device.type
    not_cpu = None if device == "cpu" else f"it runs on a CPU, the vectors are on {device!r}"
    others = {"materialized": None, "reference": not_cpu}
    on_triton = {"triton": triton_problem(device)}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    first = device != "cpu" and len(table) >= _SMALL_CORPUS
    return on_triton | others if first else others | on_triton


def _check_matrices(vectors: torch.Tensor, table: torch.Tensor, bias: torch.Tensor) -> None:
    if table.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"table must be float32 or bfloat16, got {table.dtype}")
    if vectors.ndim != 2 or table.ndim != 2 or vectors.shape[1] != table.shape[1]:
        raise ValueError(
            "vectors [B, H] and table [N, H] must share H, got shapes "
            f"{tuple(vectors.shape)} and {tuple(table.shape)}"
        )
    if not 1 <= len(table) <= 2**30 or not table.shape[1]:
        raise ValueError(
            f"table must have 1 .. 2**30 rows and a column, got shape {tuple(table.shape)}"
        )
    if bias.shape != table.shape[:1]:
        raise ValueError(f"bias must have shape [{len(table)}], got {tuple(bias.shape)}")
    for name, tensor in (("table", table), ("bias", bias)):
        if tensor.device != vectors.device:
            raise ValueError(
                f"{name} must be on the device of vectors, {vectors.device}, got {tensor.device}"
            )


def _rows(
    vectors: torch.Tensor,
    table: torch.Tensor,
    observed: tuple[Values, Values],
    first_rank: Values,
    seed: int,
    epoch: int,
    users: Values,
) -> list[torch.Tensor]:
    """[indptr, items, first_rank, users] on the device of ``vectors``."""
    n_rows, device = len(vectors), vectors.device
    arrays: list[Any] = [*observed, first_rank, users]
    if device.type == "cpu" or not all(
        isinstance(array, torch.Tensor) and array.device == device for array in arrays
    ):
        arrays = [_on_host(array) for array in arrays]
        checked = observed_rows((arrays[0], arrays[1]), n_rows, len(table))
        ranks = per_row("first_rank", arrays[2], np.int64, n_rows)
        keys = random_keys(seed, epoch, arrays[3], n_rows)
        return [torch.from_numpy(array).to(device) for array in (*checked, ranks, keys)]
    check_random_key(seed, epoch)
    names = "observed[0] (indptr)", "observed[1] (items)", "first_rank", "users"
    lengths = n_rows + 1, len(arrays[1]), n_rows, n_rows
    dtypes = torch.int64, torch.int32, torch.int64, torch.int64
    check_tensors(names, arrays, dtypes, lengths)
    return [tensor.contiguous() for tensor in arrays]


def _on_host(values: Values) -> npt.NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _check_values(
    vectors: torch.Tensor, indptr: torch.Tensor, first_rank: torch.Tensor, n_items: int
) -> None:
    """Raises ValueError for the first row with a bad vector or rank."""
    finite = vectors.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"vectors must be finite, row {int(finite.int().argmin())} is not")
    n_unobserved = n_items - indptr.diff()
    outside = (first_rank < 0) | (first_rank >= n_unobserved)
    if outside.any():
        row = int(outside.int().argmax())
        raise ValueError(
            f"first_rank must lie in 0 .. {n_unobserved[row] - 1} in row {row}, which has "
            f"{n_unobserved[row]} unobserved items, got {first_rank[row]}: its pool would be empty"
        )


def _select_reference(
    scores: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
    n_draws: int,
    seed: int,
    epoch: int,
    users: torch.Tensor,
) -> ProjectedSelection:
    if scores.isnan().any():
        raise ValueError("scores must not be NaN")
    observed = indptr.numpy(), items.numpy()
    chosen = selection.select_unobserved(scores, *observed, top_m, first_rank.numpy())
    thresholds = chosen[1].numpy(), chosen[2].numpy()
    draws, _ = pool_sampling.sample_pool(
        scores, *observed, *thresholds, n_draws, seed, epoch, users.numpy(), True
    )
    of_observed = scores[reference.row_of(indptr, len(items)), items.long()]
    return ProjectedSelection(*chosen, of_observed, draws)


def _select_triton(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
    n_draws: int,
    seed: int,
    epoch: int,
    users: torch.Tensor,
    tile: Any,
) -> ProjectedSelection:
    from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws
    from pdrec_fast.kernels.triton.selection import select_projected as projected_selection

    vectors = vectors.to(table.dtype)
    fields = None if tile is None else json.dumps(asdict(tile))
    selection = vectors, table, bias, indptr, items, top_m, first_rank, fields
    top_items, score, item, pool, state, of_observed = _projected_selection(*selection)
    n_items = len(table)
    pool_size = n_items - indptr.diff() - first_rank
    any_listed = (pool_size * pool_draws.LIST_BELOW < n_items).any()
    bad = (first_rank < 0) | (pool_size < 1) | ~vectors.isfinite().all(1)
    # The only wait for the GPU.
    *codes, any_nan, some_listed = torch.cat(
        (torch.where(bad, _BAD, state), of_observed.isnan().any()[None], any_listed[None])
    ).tolist()
    if _BAD in codes:
        _check_values(vectors, indptr, first_rank, n_items)
    if any_nan or projected_selection.NAN in codes:
        raise ValueError("scores must not be NaN: the table or the bias is not finite")
    sizes = torch.where(state == 0, pool_size, 0)
    keys = signed_seed(seed), epoch, users
    draws = _pool_draws(pool, sizes, n_items, n_draws, *keys, bool(some_listed))
    result = ProjectedSelection(top_items, score, item, of_observed, draws)
    again = [row for row, code in enumerate(codes) if code]
    if again:
        logger.debug("select_projected: %d of %d rows done again", len(again), len(codes))
        at = torch.tensor(again, device=indptr.device)
        rows = *_rows_of(indptr, items, at), top_m, first_rank[at], n_draws, seed, epoch, users[at]
        redone = reference.select_materialized(vectors[at], table, bias, *rows)
        _replace_rows(result, at, ProjectedSelection(*redone))
    return result


def _replace_rows(
    result: ProjectedSelection, rows: torch.Tensor, redone: ProjectedSelection
) -> None:
    """Of all but the scores of observed items, for which no list can be too short."""
    result.top_items[rows] = redone.top_items
    result.threshold_score[rows] = redone.threshold_score
    result.threshold_item[rows] = redone.threshold_item
    result.draws[rows] = redone.draws


def _rows_of(
    indptr: torch.Tensor, items: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indptr, items) of some rows."""
    lengths = indptr.diff()[rows]
    ends = lengths.cumsum(0)
    of_entry = torch.arange(len(rows), device=rows.device).repeat_interleave(lengths)
    places = torch.arange(len(of_entry), device=rows.device)
    places += (indptr[rows] - ends + lengths)[of_entry]
    return torch.cat((ends.new_zeros(1), ends)), items[places]


@torch.library.custom_op("pdrec_fast::projected_selection", mutates_args=())
def _projected_selection(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
    tile: str | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fields of ``kernels.triton.projected_selection.Selected`` and the observed scores.

    ``tile``: its fields in JSON. Autocast changes nothing: the table's dtype says how to multiply.
    """
    from pdrec_fast.kernels.triton.selection import _score_tiles as score_tiles
    from pdrec_fast.kernels.triton.selection import select_projected as projected_selection

    cut = None if tile is None else score_tiles.Tile(**json.loads(tile))
    corpus = score_tiles.Corpus(vectors, table, bias, cut)
    rows = reference.row_of(indptr, len(items))
    found = projected_selection.select(corpus, indptr, items, rows, top_m, first_rank)
    return *found, score_tiles.scores_of_pairs(corpus, rows, items)


@_projected_selection.register_fake
def _(
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    indptr: torch.Tensor,
    items: torch.Tensor,
    top_m: int,
    first_rank: torch.Tensor,
    tile: str | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    n_rows, n_words = vectors.shape[0], -(-table.shape[0] // 32)
    of_rows = items.new_empty(n_rows)
    return (
        items.new_empty((n_rows, top_m)),
        bias.new_empty(n_rows, dtype=torch.float32),
        of_rows,
        items.new_empty((n_rows, n_words)),
        torch.empty_like(of_rows),
        bias.new_empty(items.shape, dtype=torch.float32),
    )


@torch.library.custom_op("pdrec_fast::pool_draws", mutates_args=())
def _pool_draws(
    pool: torch.Tensor,
    sizes: torch.Tensor,
    n_items: int,
    n_draws: int,
    seed: int,
    epoch: int,
    users: torch.Tensor,
    any_listed: bool,
) -> torch.Tensor:
    """[B, n_draws]; a row whose size is 0 is left unwritten."""
    from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws

    keys = seed, epoch, users
    return pool_draws.draw(pool, sizes, n_items, n_draws, *keys, any_listed=any_listed)


@_pool_draws.register_fake
def _(
    pool: torch.Tensor,
    sizes: torch.Tensor,
    n_items: int,
    n_draws: int,
    seed: int,
    epoch: int,
    users: torch.Tensor,
    any_listed: bool,
) -> torch.Tensor:
    return pool.new_empty((pool.shape[0], n_draws))
