"""What tests of the diffusion's kernels share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def poisoned_outputs() -> Iterator[None]:
    """Memory that nothing was written to holds NaN; torch's own sums on a GPU may warn."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["small", "own"] if torch.cuda.is_available() else ["small"])
def tile_size(request: pytest.FixtureRequest) -> str:
    """``"small"``: several tiles of a small problem, as the interpreter needs them."""
    return request.param
