"""What tests of operations share: every implementation in turn, and memory full of NaN."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pdrec_fast.build_info import build_info, extension

_ISAS = build_info().get("isas_runnable", [])


@pytest.fixture(params=["reference", *(f"cpp-{isa}" for isa in _ISAS)])
def impl(request: pytest.FixtureRequest) -> Iterator[str]:
    """The ``impl=`` argument, the C++ one on each instruction set of this processor."""
    name, _, isa = request.param.partition("-")
    if isa:
        before = extension.build_info()["isa"]
        extension.set_isa(isa)
        yield name
        extension.set_isa(before)
    else:
        yield name


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floats from ``torch.empty`` are NaN, so that what a kernel leaves out shows."""
    empty = torch.empty

    def poisoned(*args: Any, **keywords: Any) -> torch.Tensor:
        tensor = empty(*args, **keywords)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)
