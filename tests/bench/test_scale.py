"""The formulas of docs/scale.md against what trainings over a mesh send and keep."""

from __future__ import annotations

import pytest
import torch

from bench.scale import Cost, diffusion_cost, encoder_cost, tables
from tests.ranks.processes import WORKER, finished, start


@pytest.fixture(scope="module", params=[(2, 1), (1, 2), (2, 2)])
def costs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    users, items = request.param
    out = tmp_path_factory.mktemp("costs") / "found.pt"
    ends = finished(start(users * items, [WORKER, "costs", str(users), str(items), str(out)]))
    assert [status for status, _, _ in ends] == [0] * len(ends), ends
    return users, items, torch.load(out, weights_only=False)


def test_a_step_of_the_diffusion_sends_what_the_formula_says(costs: tuple):
    users, items, found = costs
    expected = diffusion_cost(1003, 64, 256, users, items)
    _sends(expected, found["diffusion"])
    # Beside the tables there are the layers of the step's embedding; shares are of four items.
    assert found["diffusion"]["numbers"] * 16 == pytest.approx(expected.memory, rel=0.02)


def test_a_step_of_an_encoder_sends_what_the_formula_says(costs: tuple):
    users, items, found = costs
    encoder = found["encoder"]
    # The items of a step are somewhat fewer than all that occur.
    expected = encoder_cost(1003, 64, encoder["rows"], users, items, layers=encoder["layers"])
    assert encoder["numbers"] * 16 == pytest.approx(expected.memory, rel=0.02)
    for size, summed in encoder["summed"].items():
        a_step = summed / encoder["steps"]
        assert 0.8 * expected.summed[size] < a_step < 1.02 * expected.summed[size] + 200


def _sends(expected: Cost, found: dict) -> None:
    assert found["summed"].keys() <= expected.summed.keys()
    for size, summed in found["summed"].items():
        assert summed / found["steps"] == pytest.approx(expected.summed[size], rel=0.03)


def test_tables_are_made_of_the_formulas():
    cost = diffusion_cost(10_000_000, 1_000, 4_096, 8, 1, narrow=True)
    assert f"| users=8, items=1 | {cost.memory / 2**30:.0f} |" in tables()
    assert diffusion_cost(100, 8, 10, 1, 1).sent == 0
    assert Cost(0, 0, {2: 10, 4: 8}).sent == 10 + 12
