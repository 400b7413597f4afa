"""What the benchmarks of attention within packed sequences share: how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import pdrec_fast as pf
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation
from bench.target import target


def attention_case(
    package: Callable[[str, torch.device, torch.dtype], Callable],
    batch: pf.PackedSequences,
    padded: dict[str, Implementation],
    width: int,
    precision: str,
    *,
    baseline: str,
    data: str,
) -> Case:
    """One head, forward and backward, in the target's kernels, in the reference and in PyTorch.

    Args:
        package: makes what is timed, given (implementation, device, dtype).
        padded: PyTorch's own, on padded sequences.
        baseline: the one of them that the others are compared with, or empty.
        data: where the batch is from.
    """
    device, dtype = target().device, DTYPES[precision]
    pairs = float((batch.lengths * (batch.lengths + 1) / 2).sum())
    reference = partial(package, "reference", torch.device("cpu"), torch.float32)
    return Case(
        {impl: Implementation(partial(package, impl, device, dtype)) for impl in target().kernels}
        | {"reference": Implementation(reference, timed=not target().gpu)}
        | padded,
        reference="reference",
        baseline=baseline,
        # Two products forward, four backward.
        floor=Floor(
            bytes=dtype.itemsize * 7 * batch.n_tokens * width,
            flops=6 * 2 * width * pairs,
            dtype=precision,
        ),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        atol=1e-4,
        by_norm=precision != "fp32",
        sizes={"tokens": batch.n_tokens},
        data=data,
    )
