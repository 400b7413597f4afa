"""What operations on candidate items share: checks, and how many threads pay."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension_problem, triton_problem
from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.dispatch import choose

# Multiply-adds that a thread must have to be worth its start, while torch's own threads still spin.
_WORK_PER_THREAD = 2**21


def check_candidates(
    candidates: Candidates, similarity: Similarity, **others: torch.Tensor | None
) -> None:
    """Check shapes, dtypes, devices and settings, but no values (those are not known under a
    compiler).

    Args:
        others: tensors by name that must be on the device of the states.

    Raises:
        ValueError: states [T, d], table [N, d] and items [T, C] that do not fit, or a bad setting.
    """
    states, table, items = candidates
    if states.ndim != 2 or table.ndim != 2 or states.shape[1] != table.shape[1]:
        raise ValueError(
            "states [T, d] and table [N, d] must share d, got shapes "
            f"{tuple(states.shape)} and {tuple(table.shape)}"
        )
    if items.ndim != 2 or items.shape[0] != states.shape[0]:
        raise ValueError(
            f"items must have shape [{states.shape[0]}, C], a row for each state, "
            f"got {tuple(items.shape)}"
        )
    if items.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"items must be int64 or int32, got {items.dtype}")
    if similarity.similarity not in ("cosine", "dot"):
        raise ValueError(f"similarity must be 'cosine' or 'dot', got {similarity.similarity!r}")
    _check_temperature(similarity)
    others["temperature"] = similarity.learned
    for name, tensor in (("table", table), ("items", items), *others.items()):
        if tensor is not None and tensor.device != states.device:
            raise ValueError(
                f"{name} must be on the device of states, {states.device}, got {tensor.device}"
            )


def _check_temperature(similarity: Similarity) -> None:
    learned = similarity.learned
    if learned is None:
        if not math.isfinite(similarity.temperature):
            raise ValueError(f"temperature must be finite, got {similarity.temperature}")
    elif similarity.similarity == "dot":  # torch 2.6 cannot trace a property
        raise ValueError(
            "a temperature that is a tensor is for similarity='cosine': a dot product carries its "
            "scale in its vectors; pass a number"
        )
    elif learned.ndim or not learned.is_floating_point():
        raise ValueError(
            "temperature must be a number or a floating tensor of shape [], got "
            f"{learned.dtype} of shape {tuple(learned.shape)}"
        )


def implementations(states: torch.Tensor, table: torch.Tensor) -> dict[str, str | None]:
    """What to offer to ``choose`` for these tensors, fastest first.

    On a CPU Triton's interpreter comes last, for tests that name it.
    """
    device = states.device.type
    cpp = {"cpp": extension_problem or _tensor_problem(states, table, "cpu")}
    triton = {"triton": triton_problem(device) or _tensor_problem(states, table, device)}
    if device != "cpu":
        return {**triton, **cpp, "reference": None}
    return {**cpp, "reference": None, **triton}


def _tensor_problem(states: torch.Tensor, table: torch.Tensor, device: str) -> str | None:
    for name, tensor in (("states", states), ("table", table)):
        if tensor.device.type != device or torch.promote_types(tensor.dtype, torch.float32) != (
            torch.float32
        ):
            return (
                f"it computes in float32 on the {device}, "
                f"{name} is {tensor.dtype} on {tensor.device}"
            )
    return None


def chosen_for(name: str, impl: str, candidates: Candidates) -> tuple[str, Candidates]:
    """The implementation to run, and what it takes.

    Raises:
        ValueError: an item outside the table, where that is seen without waiting.
    """
    states, table, items = candidates
    chosen = choose(name, impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return chosen, candidates
    # The table is widened within: autograd's way back would not take a sparse gradient.
    return chosen, Candidates(states.float(), table, items)


def item_indices(items: torch.Tensor, n_items: int) -> npt.NDArray[np.int32]:
    """``items`` as a contiguous int32 array, checked so that no kernel can read outside the table.

    Raises:
        ValueError: an item outside -1 .. n_items - 1.
    """
    indices = items.numpy()
    if indices.size and not (indices.min() >= -1 and indices.max() < n_items):
        row, column = np.argwhere((indices < -1) | (indices >= n_items))[0]
        raise ValueError(
            f"items must lie in 0 .. {n_items - 1}, or be -1 where absent, "
            f"got {indices[row, column]} in row {row}, column {column}"
        )
    return np.ascontiguousarray(indices, dtype=np.int32)


def cpp_arguments(
    candidates: Candidates,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """States, table and items as the extension takes them, floats of half precision widened.

    Raises:
        ValueError: states or table are not on the CPU, or an item is outside the table.
    """
    states, table, items = candidates
    indices = item_indices(items, len(table))
    return float_array(states.float()), float_array(table.float()), indices


def temperature_value(similarity: Similarity) -> float:
    """The temperature as a number, which for one on a GPU would wait.

    Raises:
        ValueError: a learned one has become 0, infinite or NaN.
    """
    if similarity.learned is None:
        return similarity.temperature
    value = float(similarity.learned)
    if not math.isfinite(value) or value == 0:
        raise ValueError(f"temperature must be finite and not 0, got a tensor that holds {value}")
    return value


def thread_count(candidates: Candidates) -> int:
    """Threads for products of each state with its candidates."""
    items, width = candidates.items, candidates.states.shape[1]
    return min(torch.get_num_threads(), 1 + items.numel() * width // _WORK_PER_THREAD)
