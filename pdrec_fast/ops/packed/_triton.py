"""Operations on packed sequences that have Triton kernels: their implementations, and operands."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import triton_problem
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.packed._sequences import cpp_problem, offsets

IMPLS = ("auto", "cpp", "triton", "reference")  # what ``impl`` may be, see ``offered``


def offered(tensor: torch.Tensor) -> dict[str, str | None]:
    """The table for ``choose``: Triton first on a GPU, the extension first on a CPU.

    Triton's interpreter is for tests alone, so that on a CPU it comes after the reference.
    """
    cpp, triton = cpp_problem(tensor), _triton_problem(tensor)
    if tensor.device.type == "cpu":
        return {"cpp": cpp, "reference": None, "triton": triton}
    return {"triton": triton, "cpp": cpp, "reference": None}


def on_device(tokens: torch.Tensor, words: PackedDropout) -> PackedDropout:
    """``words`` where a Triton kernel for ``tokens`` reads them.

    Offsets on the host are checked; those on a GPU are not, for that would wait for it.

    Raises:
        ValueError: see ``offsets``.
    """
    if words.indptr.device.type == "cpu":
        offsets(words.indptr, len(tokens))
    indptr, users = (
        tensor.to(tokens.device, non_blocking=True).contiguous() for tensor in words[:2]
    )
    return words._replace(indptr=indptr, users=users)


def _triton_problem(tensor: torch.Tensor) -> str | None:
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, got {tensor.dtype}"
    return triton_problem(tensor.device.type)
