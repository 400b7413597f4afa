"""What the GPU path is to reach, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.report import describe_sizes, percent, ratio, seconds, table, timed_rows
from bench.target import COMPILED

Measure = Literal["speed-up over eager", "speed-up over torch.compile", "share of floor", "seconds"]
FUSED = "triton"
_SHOW = {"seconds": seconds, "share of floor": percent}
_HEADER = ("target", "sizes", "measured", "wanted", "")


@dataclass(frozen=True)
class Goal:
    """A bound on one measure; figures are for one H200.

    Attributes:
        measure: seconds are to stay below the bound, all others to reach it.
        op: None for every kernel that has a fused implementation.
        sizes: that a row must have.
    """

    measure: Measure
    bound: float
    op: str | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)


GOALS = (
    Goal("speed-up over eager", 2.0),
    Goal("speed-up over torch.compile", 1.0),
    Goal("share of floor", 0.6, "select_projected", {"precision": "bf16"}),
    Goal("share of floor", 0.6, "weighted_bce"),
    Goal("share of floor", 0.6, "packed_attention"),
    Goal("seconds", 0.060, "diffusion_epoch_fp32"),
    Goal("seconds", 0.060, "diffusion_epoch_bf16"),
    Goal("seconds", 0.150, "pdrec_epoch"),
    Goal("seconds", 60.0, "preferences_million"),
)


def judge(document: Mapping[str, Any], goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """One entry for each goal and each operation it holds for, at the first sizes it has.

    ``reached`` is None where nothing was measured.
    """
    return [entry for goal in goals for entry in _judged(goal, _cases(document))]


def format_goals(entries: Sequence[Mapping[str, Any]]) -> str:
    """A table of what ``judge`` found."""
    words = {True: "reached", False: "MISSED", None: "not measured"}
    rows = []
    for entry in entries:
        show = _SHOW.get(entry["measure"], ratio)
        bound = f"{'<' if entry['measure'] == 'seconds' else '>='} {show(entry['bound'])}"
        name = f"{entry['op']}: {entry['measure']}"
        sizes = describe_sizes(entry["sizes"])
        rows.append([name, sizes, show(entry["measured"]), bound, words[entry["reached"]]])
    return table(_HEADER, rows)


Rows = dict[str, dict[str, Any]]  # implementation -> row, of one operation at one size


def _cases(document: Mapping[str, Any]) -> list[Rows]:
    cases: dict[tuple[str, str], Rows] = {}
    for row in timed_rows(document):
        cases.setdefault((row["op"], describe_sizes(row["sizes"])), {})[row["impl"]] = row
    return list(cases.values())


def _judged(goal: Goal, cases: Sequence[Rows]) -> Iterator[dict[str, Any]]:
    seen = set()
    for rows in cases:
        row = rows.get(FUSED) or next(iter(rows.values()))
        fits = row["op"] == goal.op if goal.op else row["kind"] == "kernel" and FUSED in rows
        if row["op"] in seen or not fits or not goal.sizes.items() <= row["sizes"].items():
            continue
        seen.add(row["op"])
        yield _entry(goal, row["op"], row["sizes"], _measured(goal.measure, row, rows))
    if not seen:
        yield _entry(goal, goal.op or "every kernel", goal.sizes, None)


def _entry(goal: Goal, op: str, sizes: Mapping[str, Any], measured: float | None) -> dict[str, Any]:
    reached = None
    if measured is not None:
        reached = measured < goal.bound if goal.measure == "seconds" else measured >= goal.bound
    return {
        "op": op,
        "measure": goal.measure,
        "sizes": dict(sizes),
        "measured": measured,
        "bound": goal.bound,
        "reached": reached,
    }


def _measured(measure: Measure, row: Mapping[str, Any], rows: Rows) -> float | None:
    if measure == "seconds":
        return row["median"]
    if measure == "share of floor":
        return 1 / row["ratio_to_floor"] if row["ratio_to_floor"] else None
    if measure == "speed-up over eager":
        return 1 / row["ratio_to_reference"] if row["ratio_to_reference"] else None
    return rows[COMPILED]["median"] / row["median"] if COMPILED in rows else None
