"""What keeps the caller's torch and NumPy settings and random numbers apart from this package's.

A seed gives the same model whatever else the process does, and the caller finds everything as it
was: models built in draw from generators of their own (``drawing_from``), encoders of a user's own
take turns with torch's (``seeded_globally``), and results do not depend on what the calling thread
has set (``own_settings``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

_NUMPY_ERRORS: dict[str, Any] = {  # NumPy's own defaults
    "divide": "warn",
    "over": "warn",
    "under": "ignore",
    "invalid": "warn",
}


class _Process:
    """What a forked child must have anew.

    Attributes:
        turn: whose turn it is to seed torch's own generators; in a child nobody's.
        forked: whether torch's threads may have stayed behind with the parent.
    """

    def __init__(self) -> None:
        self.turn, self.forked = threading.RLock(), False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.turn, self.forked = threading.RLock(), True

    def use_no_lost_threads(self) -> None:
        """In a forked child compute on one thread, as torch's data loaders do: GNU's OpenMP waits
        for ever for the threads that the parent started."""
        if self.forked:
            torch.set_num_threads(1)
            self.forked = False


_process = _Process()


class drawing_from(TorchFunctionMode):  # noqa: N801  # used like torch.no_grad
    """Within it, what this thread's initialisers draw comes from one generator, not from torch's.

    It reaches every call that passes a generator on, as ``torch.nn.init`` and the constructors of
    ``torch.nn`` do, with none given; not ``torch.randn`` and its like.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if "generator" in kwargs and kwargs["generator"] is None:
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


@contextmanager
def seeded_globally(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Torch's own generators, of the CPU (which is given) and of ``device``, begin at ``seed``;
    afterwards they are what they were.

    For encoders of a user's own. They take turns, so that two of them do not draw from each other's
    numbers. Another thread of the caller's that draws meanwhile still does: it gets numbers of this
    seed, and the encoder others than alone. Python's and NumPy's generators are left as they are.
    """
    on_gpu = device.type == "cuda"
    with _process.turn, torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield torch.default_generator


@contextmanager
def own_settings(*, training: bool = False) -> Iterator[None]:
    """Set aside what the calling thread has set: torch's default device and autocast, and how NumPy
    treats floating-point errors. A forked process computes on one thread from here on.

    Args:
        training: gradients are recorded, in ``torch.inference_mode`` and ``torch.no_grad`` as well.
    """
    _process.use_no_lost_threads()
    with ExitStack() as stack:
        stack.enter_context(np.errstate(**_NUMPY_ERRORS))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if training:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
