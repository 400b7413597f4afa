"""Fixtures that every part of the tests may use."""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pdrec_fast as pf
from pdrec_fast import devices

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when anything first imports triton

# Tiny tensors: a second thread would only wait, and spin while other tests want the core.
torch.set_num_threads(1)

_BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton kernels run: compiled on a GPU, under Triton's interpreter elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def _models_on_the_cpu() -> Iterator[None]:
    """Tests that do not name a device are about the CPU, on a machine with a GPU as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "automatic_device", lambda: "cpu")
        yield


@pytest.fixture
def poisoned_outputs() -> Iterator[None]:
    """Memory that nothing was written to holds NaN, or the largest integer."""
    # Torch's own sums on a GPU may warn.
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.zeros(3).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def _dynamo_knows_torch() -> None:
    """Torch's compiler remembers torch's functions at its first use: before they are patched."""
    torch.compile(torch.sin, backend="eager")(torch.zeros(1))


@pytest.fixture
def poisoned_memory(_dynamo_knows_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise of ``torch.empty`` and ``empty_like``, where deterministic algorithms would take
    another kernel."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def poisoned(*args: Any, make: Any = make, **keywords: Any) -> torch.Tensor:
            tensor = make(*args, **keywords)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, poisoned)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """``real_data("toy.inter")`` is the path of a real data file; skips where it is absent."""
    folder = Path(os.environ.get("PDREC_DATA", _BESIDE_REPOSITORY))

    def path_of(name: str) -> Path:
        path = folder / name
        if not path.is_file():
            pytest.skip(f"real data file {name} not in {folder}; set PDREC_DATA to its folder")
        return path

    return path_of


@pytest.fixture
def clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the file ``clicks.csv`` that the README and the pages speak of."""
    data = pf.synthetic(n_users=60, n_items=250)
    assert data.timestamps is not None
    with (tmp_path / "clicks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        records = zip(data.record_users, data.items, data.timestamps, strict=True)
        writer.writerows((f"u{user}", f"i{item}", when) for user, item, when in records)
    monkeypatch.chdir(tmp_path)
    return tmp_path
