"""Errors of operations against float64: that all are measured, hold, and would be seen to fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.accuracy import command
from bench.accuracy.sample import CASES, Draw, error

OPS = Path(__file__).resolve().parents[2] / "pdrec_fast" / "ops"


def test_every_operation_is_measured():
    ops = {path.stem for path in OPS.glob("*/*.py") if not path.stem.startswith("_")}
    assert set(CASES) == ops


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_promised_holds(name):
    document = command.measure([name], n_samples=4, seed=1_000)
    assert command.broken(document) == []
    impls = {row["impl"] for row in document["rows"]}
    assert impls | {row["impl"] for row in document["unavailable"]} == set(
        CASES[name](Draw(0)).impls
    )


def test_an_operation_that_is_wrong_is_told_of(monkeypatch, capsys):
    right = CASES["packed_dropout"]

    def wrong(draw):
        sample = right(draw)

        def run(impl, dtype):
            found = sample.run(impl, dtype)
            return found | {"value": found["value"] * (1 + 2e-5 * (impl == "cpp"))}

        return replace(sample, run=run)

    monkeypatch.setitem(CASES, "packed_dropout", wrong)
    assert main(["accuracy", "--only", "packed_dropout", "--samples", "3"]) == 1
    shown = capsys.readouterr()
    assert "'output': 'value'" in shown.err
    assert "grad_x" not in shown.err
    assert "packed_dropout  cpp" in shown.out


def test_an_unknown_operation_is_refused(capsys):
    assert main(["accuracy", "--only", "nothing"]) == 2
    assert "no operation named nothing; choose among" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-9, 0.0], [0.0, 0.0], float("inf")),
        ([float("nan"), 1.0], [2.0, 1.0], float("inf")),
        ([-float("inf"), 1.0], [-float("inf"), 1.0], 0.0),
        ([-float("inf"), 1.0], [3.0, 1.0], float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
    ],
)
def test_the_error_of_floats(found, true, expected):
    assert error(torch.tensor(found), torch.tensor(true, dtype=torch.float64)) == expected


def test_the_error_of_whole_numbers_is_the_share_that_differs():
    assert error(torch.tensor([1, 2, 3, 5]), torch.tensor([1, 2, 3, 4])) == 0.25
