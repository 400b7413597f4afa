"""Kernels against their references with pytest-benchmark: ``make bench``."""

from functools import lru_cache

import pytest

import bench.catalogue  # noqa: F401
from bench.machine import torch_threads
from bench.registry import OPERATIONS, Case
from bench.runner import verify
from pdrec_fast.errors import BackendError

THREADS = 2
KERNELS = [each for each in OPERATIONS.values() if each.kind == "kernel" and each.sizes]


@lru_cache(maxsize=1)
def checked_case(name: str) -> Case:
    """The benched case, made once, if all implementations agree on a small one."""
    operation = OPERATIONS[name]
    verify(name, operation.make(**operation.small), operation.small)
    return operation.make(**operation.sizes)


def implementations() -> list[tuple[str, str]]:
    """(operation, implementation) of every kernel."""
    return [
        (operation.name, implementation)
        for operation in KERNELS
        for implementation in operation.make(**operation.small).implementations
    ]


@pytest.mark.parametrize(("name", "implementation"), implementations())
def test_kernel(benchmark, name, implementation):
    operation = OPERATIONS[name]
    benchmark.group = f"{name} {dict(operation.sizes)}"
    with torch_threads(operation.threads or THREADS):
        case = checked_case(name)
        try:
            benchmark(case.implementations[implementation].prepare())
        except BackendError as error:
            pytest.skip(str(error))
