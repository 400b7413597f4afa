"""Projection, selection and draws in one operation: scores are used where they are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from bench.data import TOY
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation, operation
from bench.target import eager, target
from pdrec_fast.ops.selection.select_projected import select_projected

TOP, DRAWS, OBSERVED, OMEGA = 50, 1_024, 14, 0.5
CHECKED_USERS = 64
DENSE_NUMBERS = 2**28  # of users x items, at most, in baselines that sort all scores
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # top items, threshold's score, draws


@operation(
    "select_projected",
    "kernel",
    gpu_sizes=(
        {"users": 4_096, "items": 10**6, "hidden": 256, "precision": "bf16"},
        {"users": 4_096, "items": 10**6, "hidden": 256, "precision": "fp32"},
        {**TOY, "hidden": 1_000, "precision": "fp32"},
    ),
    small={"users": 5, "items": 141, "hidden": 13, "precision": "fp32"},
    check_at_size=True,
)
def projected(users: int, items: int, hidden: int, precision: str) -> Case:
    """Top 50, the item at rank 0.5 l and 1,024 draws at or after it, of every user."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(users, hidden, generator=generator) * 2 - 1
    table = torch.randn(items, hidden, generator=generator) * hidden**-0.5
    # One observed item of each of so many equal parts of the corpus: sorted and unique.
    step = items // OBSERVED
    seen = torch.randint(step, (users, OBSERVED), generator=generator)
    seen = seen + step * torch.arange(OBSERVED)
    device, dtype = target().device, DTYPES[precision]
    vectors, table, seen = vectors.to(device, dtype), table.to(device, dtype), seen.to(device)
    bias, rank = torch.zeros(items, device=device), int(OMEGA * (items - OBSERVED))

    def package(impl: str, n: int) -> Found:
        indptr = torch.arange(n + 1, device=device) * OBSERVED
        observed = indptr, seen[:n].flatten().int()
        ranks = torch.full((n,), rank, device=device)
        keys: dict[str, Any] = {"seed": 0, "users": torch.arange(n, device=device)}
        found = select_projected(
            vectors[:n], table, bias, observed, TOP, ranks, DRAWS, **keys, impl=impl
        )
        return found.top_items, found.threshold_score, found.draws

    def by_sorting(vectors: torch.Tensor, table: torch.Tensor, seen: torch.Tensor) -> Found:
        scores = F.linear(vectors, table).float() + bias
        order = scores.scatter(1, seen, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranks = torch.randint(rank, items - OBSERVED, (len(seen), DRAWS), device=device)
        threshold = scores.gather(1, order[:, rank : rank + 1])[:, 0]
        return order[:, :TOP], threshold, order.gather(1, ranks)

    n_dense = min(max(DENSE_NUMBERS // items, 1), users)
    dense: dict[str, Any] = {
        "share": n_dense / users,
        "note": f"{n_dense} of {users} users, scaled" if n_dense < users else "",
    }

    def checked(found: Found) -> tuple[torch.Tensor, ...]:
        return _facts(*(part[:CHECKED_USERS] for part in found), vectors, table, bias, seen)

    def run(forward: Callable[..., Found]) -> Found:
        return forward(vectors[:n_dense], table, seen[:n_dense])

    def implementation(call: Callable[[], Found], **fields: Any) -> Implementation:
        return Implementation(lambda: call, lambda: checked(call()), **fields)

    kernels = {
        "triton": implementation(partial(package, "triton", users)),
        "materialized": implementation(partial(package, "materialized", n_dense), **dense),
        # The library's product in half precision rounds its scores, so that others come first.
        **eager("product + sort", run, by_sorting, comparable=False, **dense),
    }
    if not target().gpu:
        del kernels["triton"]
    return Case(
        kernels,
        reference="materialized",
        baseline="product + sort",
        floor=Floor(bytes=table.nbytes, flops=2 * users * items * hidden, dtype=precision),
        rtol=1e-4,
        atol=1e-4,
    )


def _facts(
    top: torch.Tensor,
    threshold: torch.Tensor,
    draws: torch.Tensor,
    vectors: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    seen: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """(scores of the top items, the threshold's, whether all draws are of the pool).

    Scores that differ by rounding may change places, so that no items are compared.
    """
    n = len(top)
    scores = vectors[:n].float() @ table.float().T + bias
    chosen = scores.gather(1, draws.long())
    tolerance = 1e-4 * (1 + threshold.abs())
    in_pool = (chosen <= (threshold + tolerance)[:, None]).all()
    unobserved = (scores.scatter(1, seen[:n], torch.nan).gather(1, draws.long()) == chosen).all()
    return scores.gather(1, top.long()), threshold, in_pool & unobserved
