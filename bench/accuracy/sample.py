"""A random input of an operation, and what is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Outputs = Mapping[str, torch.Tensor]
FORWARD, GRADIENT, EXACT = 1e-5, 1e-4, 0.0
"""What is promised of a value, of a gradient, and of whole numbers."""


@dataclass(frozen=True)
class Sample:
    """An operation at one random size.

    Attributes:
        sizes: for the reader of the row.
        impls: names of what is measured; with the reference in float32, for comparison.
        run: the outputs by name, of an implementation, in a dtype; those whose names begin with
            ``grad`` are gradients.
        truth: the outputs in float64, by another way than the reference in that dtype.
    """

    sizes: Mapping[str, Any]
    impls: Sequence[str]
    run: Callable[[str, torch.dtype], Outputs]
    truth: Callable[[], Outputs] | None = None

    def true(self) -> Outputs:
        return self.truth() if self.truth else self.run("reference", torch.float64)


def limit_of(output: str, value: torch.Tensor) -> float:
    if not value.is_floating_point():
        return EXACT
    return GRADIENT if output.startswith("grad") else FORWARD


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    """The largest difference in units of the largest true number; of whole numbers, the share that
    differs. Infinite where there should be zeros or numbers and are none."""
    if found.shape != true.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    if not true.is_floating_point():
        return float((found.long() != true.long()).double().mean())
    found, true = found.double(), true.double()
    same = (found == true) | (found.isnan() & true.isnan())  # infinities too
    difference = torch.where(same, 0.0, (found - true).abs())
    largest = true[true.isfinite()].abs().max() if true.isfinite().any() else true.new_zeros(())
    ratio = torch.where(same, 0.0, difference / largest)
    return float(torch.nan_to_num(ratio, nan=float("inf"), posinf=float("inf")).max())


class Draw:
    """Random sizes and numbers."""

    def __init__(self, seed: int) -> None:
        self.numpy = np.random.default_rng(seed)
        self._torch = torch.Generator().manual_seed(seed)

    def size(self, most: int, least: int = 1) -> int:
        """As often of each order of magnitude."""
        low, high = np.log(least), np.log(most + 1)
        return min(int(np.exp(self.numpy.uniform(low, high))), most)

    def scale(self, least: float = 0.01, most: float = 3.0) -> float:
        return float(np.exp(self.numpy.uniform(np.log(least), np.log(most))))

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=self._torch)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self._torch)

    def integers(self, least: int, end: int, *shape: int) -> torch.Tensor:
        return torch.randint(least, end, shape, generator=self._torch)

    def rows(self, n_rows: int, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
        """indptr int64 and items int32, ascending within a row; at most half of all items."""
        items = [
            np.sort(self.numpy.choice(n_items, self.numpy.integers(n_items // 2 + 1), False))
            for _ in range(n_rows)
        ]
        indptr = np.cumsum([0, *map(len, items)])
        joined = np.concatenate([*items, []]).astype(np.int32)
        return torch.from_numpy(indptr), torch.from_numpy(joined)

    def lengths(self, n_sequences: int, longest: int) -> torch.Tensor:
        """Of sequences, 0 among them."""
        return torch.from_numpy(self.numpy.integers(0, longest + 1, n_sequences))


def with_gradients(
    function: Callable[..., torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    upstream: Callable[[torch.Tensor], torch.Tensor],
) -> Outputs:
    """``function`` of the inputs in ``dtype``, and the gradients by them."""
    leaves = {name: x.to(dtype).detach().requires_grad_() for name, x in inputs.items()}
    value = function(**leaves)
    gradients = torch.autograd.grad(value, list(leaves.values()), upstream(value))
    named = {f"grad_{name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {"value": value.detach()} | named


def ones(value: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(value)


def waves(value: torch.Tensor) -> torch.Tensor:
    """A gradient that differs from element to element, the same in every dtype."""
    places = torch.arange(value.numel(), dtype=torch.float64)
    return torch.cos(places).view(value.shape).float().to(value.dtype)


Make = Callable[[Draw], Sample]
CASES: dict[str, Make] = {}
CPP = "cpp", "reference"


def case(make: Make) -> Make:
    """Register the sample of an operation under the function's name."""
    CASES[make.__name__.lstrip("_")] = make
    return make
