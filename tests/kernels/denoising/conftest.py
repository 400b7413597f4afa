"""What tests of the diffusion's kernels share."""

import pytest
import torch


@pytest.fixture(params=["small", "own"] if torch.cuda.is_available() else ["small"])
def tile_size(request: pytest.FixtureRequest) -> str:
    """``"small"``: several tiles of a small problem, as the interpreter needs them."""
    return request.param
