"""Where a model lives, and how what the host prepares gets there in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_AHEAD = 8  # batches; enough to even out a slow one, few enough to hold little memory
_END = object()

T = TypeVar("T")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name; ``"auto"`` is the current GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device, or none of its kind here.
    """
    if device == "auto":
        device = automatic_device()
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: {error}; use 'auto', 'cpu' or 'cuda'") from None
    if resolved.type != "cuda":
        return resolved
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r}: no GPU that this torch can use; use device='cpu', or install "
            "a torch built for CUDA"
        )
    if resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    if resolved.index >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r}: there are {torch.cuda.device_count()} GPUs here")
    return resolved


def automatic_device() -> str:
    """What ``"auto"`` stands for here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """For reports: what the GPU is called, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def off_cpu(model: object) -> bool:
    """Whether a model says that it computes elsewhere than on the CPU."""
    return getattr(getattr(model, "device", None), "type", "cpu") != "cpu"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for what the device still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """The same items, made a few ahead by another thread."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="pdrec-fast-prefetch") as worker:
        ahead = deque(worker.submit(next, iterator, _END) for _ in range(_AHEAD))
        try:
            while (item := ahead.popleft().result()) is not _END:
                ahead.append(worker.submit(next, iterator, _END))
                yield item  # type: ignore[misc]  # what ``next`` returned is a T or _END
        finally:
            for pending in ahead:
                pending.cancel()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for products in bfloat16, which make them faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # No other way to ask; torch 2.6 to 2.13 have both.
    checks = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    return device.type == "cpu" and any(
        getattr(torch.cpu, name, lambda: False)() for name in checks
    )
