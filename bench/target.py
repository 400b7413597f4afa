"""Where a run's cases live: the CPU, or a GPU and its baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.registry import Implementation

COMPILED = "torch.compile"


@dataclass(frozen=True)
class Target:
    """What cases are made for.

    Attributes:
        device: of their tensors.
        gpu: whether they hold the kernels for a GPU against eager PyTorch and ``torch.compile``.
            On a CPU these run under Triton's interpreter, which shows that they are right and says
            nothing of time.
    """

    device: torch.device
    gpu: bool

    @property
    def interpreter(self) -> bool:
        return self.gpu and self.device.type == "cpu"

    @property
    def kernels(self) -> tuple[str, ...]:
        """The compiled implementations that it can have, the package's choice first."""
        return ("triton",) if self.gpu else ("cpp",)

    @property
    def model_options(self) -> dict[str, str]:
        """Keyword arguments of estimators that put them there.

        None without a GPU, where there is no choice: an older package, as in ``compare``, has no
        such argument.
        """
        return {"device": self.device.type} if torch.cuda.is_available() else {}


CPU = Target(torch.device("cpu"), gpu=False)
_current = [CPU]


def target() -> Target:
    """What cases are to be made for now."""
    return _current[-1]


@contextmanager
def targeting(chosen: Target) -> Iterator[None]:
    """Make cases for ``chosen``."""
    _current.append(chosen)
    try:
        yield
    finally:
        _current.pop()


def gpu_target() -> Target:
    """The GPU where there is one, else the CPU with Triton's interpreter in its place."""
    return Target(torch.device("cuda" if torch.cuda.is_available() else "cpu"), gpu=True)


def eager(
    name: str,
    run: Callable[[Callable[..., Any]], Any],
    forward: Callable[..., Any],
    **fields: Any,
) -> dict[str, Implementation]:
    """``run(forward)`` under ``name`` and, for a GPU, the same with ``forward`` compiled."""
    rows = {name: Implementation(lambda: partial(run, forward), **fields)}
    if target().gpu:
        rows[COMPILED] = Implementation(
            lambda: partial(run, compiled(forward)), slow_start=True, **fields
        )
    return rows


def compiled(function: Any) -> Any:
    """``torch.compile`` of a function or module; without a GPU, traced and run as it is."""
    return torch.compile(
        function, dynamic=False, backend="eager" if target().interpreter else "inductor"
    )
