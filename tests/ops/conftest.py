"""What tests of operations share: every implementation in turn, and memory full of NaN."""

from collections.abc import Iterator

import pytest

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
