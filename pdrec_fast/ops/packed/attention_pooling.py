"""Means of each sequence's tokens by the attention of a few queries."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.packed._sequences import offsets
from pdrec_fast.reference.packed import attention_pooling as reference


@torch.no_grad()
def attention_pooling(
    x: torch.Tensor, indptr: torch.Tensor, queries: torch.Tensor, *, impl: str = "auto"
) -> torch.Tensor:
    """``softmax(queries[b] @ x_b.T) @ x_b``, ``x_b`` being the tokens of sequence b. Without
    gradient.

    What attention (Vaswani et al., 2017, eq. 1) of one query to a sequence comes to once the
    matrices of keys and values are moved to the query and to the output: ``(q + b_q) . (W_k x)`` is
    ``(W_k' (q + b_q)) . x``, and a mean of ``W_v x`` is ``W_v`` of the mean. No token needs a key
    or a value of its own then.

    Args:
        x: [T, d].
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``.
        queries: [B, heads, d], of the dtype and on the device of ``x``; scaled by the caller.
        impl: ``"auto"``, ``"cpp"`` (float32 on the CPU; the same bits whatever the number of
            threads and the instruction set) or ``"reference"``, a loop over sequences.

    Returns:
        [B, heads, d]; zeros for a sequence without tokens.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or ``indptr`` is none.
        BackendError: the named implementation cannot run here.
    """
    _check(x, indptr, queries)
    bounds = offsets(indptr, len(x))
    if choose("attention_pooling", impl, _offered(x)) == "reference":
        return reference.attention_pooling(x, indptr, queries)
    out = torch.empty(queries.shape, dtype=torch.float32)
    extension.attention_pooling(
        x.detach().contiguous().numpy(),
        bounds,
        queries.detach().contiguous().numpy(),
        out.numpy(),
        torch.get_num_threads(),
    )
    return out


def _check(x: torch.Tensor, indptr: torch.Tensor, queries: torch.Tensor) -> None:
    if indptr.ndim != 1 or not len(indptr) or indptr.dtype != torch.int64:
        raise ValueError(
            "indptr must be an int64 tensor of shape [B + 1], got "
            f"{indptr.dtype} of shape {tuple(indptr.shape)}"
        )
    n_sequences = len(indptr) - 1
    fits = x.ndim == 2 and queries.ndim == 3 and len(queries) == n_sequences
    if not fits or queries.shape[2] != x.shape[1]:
        raise ValueError(
            f"x must be [T, d] and queries [B, heads, d] with B = {n_sequences}, got shapes "
            f"{tuple(x.shape)} and {tuple(queries.shape)}"
        )
    if (queries.dtype, queries.device) != (x.dtype, x.device):
        raise ValueError(
            "x and queries must be of one dtype and on one device, got "
            f"{x.dtype} on {x.device} and {queries.dtype} on {queries.device}"
        )


def _offered(x: torch.Tensor) -> dict[str, str | None]:
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return {"cpp": extension_problem, "reference": None}
    # The only one elsewhere, not a stopgap to be warned of.
    problem = f"it computes float32 on a CPU, got {x.dtype} on {x.device}"
    return {"reference": None, "cpp": problem}
