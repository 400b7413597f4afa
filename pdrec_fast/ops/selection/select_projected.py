"""What preferences keep of each user's scores, without the matrix of scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.operands import DrawKey, ObservedRows, Projection
from pdrec_fast.ops.arguments import (
    check_random_key,
    check_tensors,
    observed_rows,
    per_row,
    random_keys,
    signed_seed,
)
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose, logger
from pdrec_fast.ops.selection._checks import check_ranks
from pdrec_fast.reference.selection import select_projected as reference

Values = npt.NDArray[Any] | torch.Tensor

_BAD = 3  # a row's argument, among the states of its kernels

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
        tile: of ``"triton"``: a ``Tile`` of ``kernels.triton.selection._score_tiles``; None chooses
            by shape.

    ``observed``, ``first_rank`` and ``users`` are checked and copied to the device of ``vectors``.
    Tensors that lie on a GPU already are checked in shape and dtype, and ``first_rank`` in value:
    ``"triton"`` waits for the GPU once a call.

    Raises:
        ValueError: an argument is out of its range, or a row's pool would be empty.
        NonFiniteScoresError: a vector is not finite, or a score is NaN.
        BackendError: the named implementation cannot run here.
    """
    projection = Projection(vectors, table, bias)
    _check_projection(projection)
    chosen = choose("select_projected", impl, _offered(vectors, table))
    if top_m < 0 or n_draws < 0:
        raise ValueError(f"top_m and n_draws must be at least 0, got {top_m=}, {n_draws=}")
    rows, key = _rows(projection, observed, first_rank, seed, epoch, users)
    given = projection, rows, top_m, n_draws, key
    if chosen == "triton" and len(vectors):
        return _select_triton(*given, tile)
    _check_values(vectors, rows, len(table))
    if chosen == "reference":
        return ProjectedSelection(*reference.select_projected(*given))
    return ProjectedSelection(*reference.select_materialized(*given))


def _offered(vectors: torch.Tensor, table: torch.Tensor) -> dict[str, str | None]:
    device = vectors.device.type
    not_cpu = None if device == "cpu" else f"it runs on a CPU, the vectors are on {device!r}"
    others = {"materialized": None, "reference": not_cpu}
    on_triton = {"triton": triton_problem(device)}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    first = device != "cpu" and len(table) >= _SMALL_CORPUS
    return on_triton | others if first else others | on_triton


def _check_projection(projection: Projection) -> None:
    vectors, table, bias = projection
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
    projection: Projection,
    observed: tuple[Values, Values],
    first_rank: Values,
    seed: int,
    epoch: int,
    users: Values,
) -> tuple[ObservedRows, DrawKey]:
    """Checked, and on the device of the vectors."""
    n_rows, device = len(projection.vectors), projection.vectors.device
    arrays: list[Any] = [*observed, first_rank, users]
    if device.type == "cpu" or not all(
        isinstance(array, torch.Tensor) and array.device == device for array in arrays
    ):
        arrays = [_on_host(array) for array in arrays]
        checked = observed_rows((arrays[0], arrays[1]), n_rows, len(projection.table))
        ranks = per_row("first_rank", arrays[2], np.int64, n_rows)
        keys = random_keys(seed, epoch, arrays[3], n_rows)
        host = checked.indptr, checked.values, ranks, keys
        arrays = [torch.from_numpy(array).to(device) for array in host]
    else:
        check_random_key(seed, epoch)
        names = "observed[0] (indptr)", "observed[1] (items)", "first_rank", "users"
        lengths = n_rows + 1, len(arrays[1]), n_rows, n_rows
        dtypes = torch.int64, torch.int32, torch.int64, torch.int64
        check_tensors(names, arrays, dtypes, lengths)
        arrays = [tensor.contiguous() for tensor in arrays]
    return ObservedRows(*arrays[:3]), DrawKey(seed, epoch, arrays[3])


def _on_host(values: Values) -> npt.NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _check_values(vectors: torch.Tensor, rows: ObservedRows, n_items: int) -> None:
    """Raises ValueError for the first row with a bad vector or rank."""
    finite = vectors.isfinite().all(1)
    if not finite.all():
        row = int(finite.int().argmin())
        raise NonFiniteScoresError(f"vectors must be finite, row {row} is not", row)
    check_ranks(_on_host(rows.first_rank), _on_host(rows.indptr), n_items)


def _select_triton(
    projection: Projection,
    rows: ObservedRows,
    top_m: int,
    n_draws: int,
    key: DrawKey,
    tile: Any,
) -> ProjectedSelection:
    from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws
    from pdrec_fast.kernels.triton.selection import select_projected as kernels

    vectors, table, _ = projection
    narrow = projection._replace(vectors=vectors.to(table.dtype))
    fields = None if tile is None else json.dumps(asdict(tile))
    top_items, score, item, pool, state, of_observed = _select_projected(
        narrow, rows, top_m, fields
    )
    n_items, first_rank = len(table), rows.first_rank
    pool_size = n_items - rows.indptr.diff() - first_rank
    any_listed = (pool_size * pool_draws.LIST_BELOW < n_items).any()
    bad = (first_rank < 0) | (pool_size < 1) | ~narrow.vectors.isfinite().all(1)
    # The only wait for the GPU.
    *codes, any_nan, some_listed = torch.cat(
        (torch.where(bad, _BAD, state), of_observed.isnan().any()[None], any_listed[None])
    ).tolist()
    if _BAD in codes:
        _check_values(narrow.vectors, rows, n_items)
    if any_nan or kernels.NAN in codes:
        raise NonFiniteScoresError("scores must not be NaN: the table or the bias is not finite")
    sizes = torch.where(state == 0, pool_size, 0)
    signed = key._replace(seed=signed_seed(key.seed))
    draws = _pool_draws(pool, sizes, n_items, n_draws, signed, bool(some_listed))
    result = ProjectedSelection(top_items, score, item, of_observed, draws)
    again = [row for row, code in enumerate(codes) if code]
    if again:
        logger.debug("select_projected: %d of %d rows done again", len(again), len(codes))
        at = torch.tensor(again, device=vectors.device)
        redone = reference.select_materialized(
            narrow._replace(vectors=narrow.vectors[at]),
            reference.rows_of(rows, at),
            top_m,
            n_draws,
            key._replace(users=key.users[at]),
        )
        _replace_rows(result, at, ProjectedSelection(*redone))
    return result


def _replace_rows(
    result: ProjectedSelection, rows: torch.Tensor, redone: ProjectedSelection
) -> None:
    """Of all but the scores of observed items, for which no list can be too short."""
    for name in ("top_items", "threshold_score", "threshold_item", "draws"):
        getattr(result, name)[rows] = getattr(redone, name)


def _like_selected(a: Any) -> tuple[torch.Tensor, ...]:
    vectors, table, bias = a.projection
    items, n_rows = a.rows.items, vectors.shape[0]
    of_rows = items.new_empty(n_rows)
    return (
        items.new_empty((n_rows, a.top_m)),
        bias.new_empty(n_rows, dtype=torch.float32),
        of_rows,
        items.new_empty((n_rows, -(-table.shape[0] // 32))),
        torch.empty_like(of_rows),
        bias.new_empty(items.shape, dtype=torch.float32),
    )


@operation(fake=_like_selected)
def _select_projected(
    projection: Projection, rows: ObservedRows, top_m: int, tile: str | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fields of ``kernels.triton.selection.select_projected.Selected``, the observed scores.

    ``tile``: its fields in JSON. Autocast changes nothing: the table's dtype says how to multiply.
    """
    from pdrec_fast.kernels.triton.selection import _score_tiles as score_tiles
    from pdrec_fast.kernels.triton.selection import select_projected as kernels

    cut = None if tile is None else score_tiles.Tile(**json.loads(tile))
    corpus = score_tiles.Corpus(*projection, cut)
    of_entries = reference.row_of(rows.indptr, len(rows.items))
    found = kernels.select_projected(corpus, rows, of_entries, top_m)
    return *found, score_tiles.scores_of_pairs(corpus, of_entries, rows.items)


@operation(fake=lambda a: a.pool.new_empty((a.pool.shape[0], a.n_draws)))
def _pool_draws(
    pool: torch.Tensor,
    sizes: torch.Tensor,
    n_items: int,
    n_draws: int,
    key: DrawKey,
    any_listed: bool,
) -> torch.Tensor:
    """[B, n_draws]; a row whose size is 0 is left unwritten."""
    from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws

    return pool_draws.draw(pool, sizes, n_items, n_draws, key, any_listed=any_listed)
