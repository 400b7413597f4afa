"""Targets against rows made by hand."""

import pytest

from bench.goals import Goal, format_goals, judge
from bench.target import COMPILED

SIZES = {"n": 9}


def rows(op="op", kind="kernel", sizes=SIZES, ours=1.0, eager=3.0, compiled=1.5, floor=0.5):
    made = []
    for impl, median in (
        ("materialized", 9.0),
        ("triton", ours),
        ("e", eager),
        (COMPILED, compiled),
    ):
        row = {"op": op, "kind": kind, "impl": impl, "sizes": sizes, "median": median}
        made.append(row | {"ratio_to_reference": median / eager, "ratio_to_floor": median / floor})
    return made


def judged(goal, *cases):
    return judge({"rows": [row for case in cases for row in case]}, (goal,))


@pytest.mark.parametrize(
    ("measure", "bound", "measured", "reached"),
    [
        ("speed-up over eager", 2.0, 3.0, True),
        ("speed-up over eager", 4.0, 3.0, False),
        ("speed-up over torch.compile", 1.0, 1.5, True),
        ("share of floor", 0.6, 0.5, False),
        ("seconds", 1.5, 1.0, True),
        ("seconds", 1.0, 1.0, False),
    ],
)
def test_measures_are_those_of_the_fused_kernel(measure, bound, measured, reached):
    (entry,) = judged(Goal(measure, bound, "op"), rows())
    assert entry["measured"] == pytest.approx(measured)
    assert entry["reached"] is reached


def test_every_kernel_is_judged_at_its_first_sizes_and_stages_are_not():
    cases = rows("a"), rows("b"), rows("a", sizes={"n": 1}, ours=8.0), rows("c", "stage")
    entries = judged(Goal("speed-up over eager", 2.0), *cases)
    assert [(entry["op"], entry["sizes"]) for entry in entries] == [("a", SIZES), ("b", SIZES)]


def test_sizes_choose_the_case():
    goal = Goal("share of floor", 0.4, "op", {"n": 1})
    (entry,) = judged(goal, rows(), rows(sizes={"n": 1, "m": 2}, floor=0.25))
    assert entry["measured"] == pytest.approx(0.25)
    assert entry["sizes"] == {"n": 1, "m": 2}


def test_what_was_not_measured_is_neither_reached_nor_missed():
    (entry,) = judged(Goal("seconds", 1.0, "another"), rows())
    assert entry["reached"] is None
    (entry,) = judged(Goal("speed-up over torch.compile", 1.0, "op"), rows()[:-1])
    assert entry["reached"] is None
    assert "not measured" in format_goals([entry])


def test_table():
    text = format_goals(judged(Goal("seconds", 0.5, "op"), rows()))
    assert "op: seconds" in text
    assert "< 500 ms" in text
    assert "MISSED" in text
