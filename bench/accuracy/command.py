"""``python -m bench accuracy``: the worst error of every operation over many random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from bench.accuracy import cases, packed  # noqa: F401  (they register their operations)
from bench.accuracy.sample import CASES, Draw, error, limit_of
from bench.machine import environment
from bench.report import table
from bench.target import CPU
from pdrec_fast.errors import BackendError


def measure(only: Iterable[str], n_samples: int, seed: int) -> dict[str, Any]:
    """The document that ``--json`` writes: a row for every operation, implementation and output.

    Raises:
        ValueError: a name that no operation has.
    """
    names = list(only) or sorted(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ValueError(f"no operation named {', '.join(unknown)}; choose among {sorted(CASES)}")
    rows, unavailable = [], []
    for name in names:
        of_name, problems = _measure_one(name, n_samples, seed)
        rows += of_name
        unavailable += [{"op": name, "impl": impl, "reason": why} for impl, why in problems.items()]
    return {
        "format": 1,
        "environment": environment(1, CPU),
        "samples": n_samples,
        "seed": seed,
        "rows": rows,
        "unavailable": unavailable,
    }


def _measure_one(
    name: str, n_samples: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for number in range(n_samples):
        sample = CASES[name](Draw(seed + number))
        true = sample.true()
        for impl in sample.impls:
            if impl in problems:
                continue
            try:
                found = sample.run(impl, torch.float32)
            except BackendError as problem:
                problems[impl] = str(problem)
                continue
            for output, value in true.items():
                row = {
                    "op": name,
                    "impl": impl,
                    "output": output,
                    "error": error(found[output], value),
                    "limit": limit_of(output, value),
                    "at": {"seed": seed + number, **sample.sizes},
                }
                kept = worst.setdefault((impl, output), row)
                if row["error"] > kept["error"]:
                    worst[impl, output] = row
    return list(worst.values()), problems


def broken(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the package's own implementations beyond what is promised."""
    return [
        row
        for row in document["rows"]
        if row["impl"] != "reference" and not row["error"] <= row["limit"]
    ]


def worst_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each implementation, the worst value and the worst gradient."""
    shown: dict[tuple[str, str, float], dict[str, Any]] = {}
    for row in document["rows"]:
        place = row["op"], row["impl"], row["limit"]
        if place not in shown or row["error"] > shown[place]["error"]:
            shown[place] = row
    return list(shown.values())


def format_document(document: Mapping[str, Any]) -> str:
    """The ``worst_rows``, and what there was none of."""
    header = ["operation", "implementation", "output", "worst error", "limit", "at"]
    cells = [
        [
            *(row["op"], row["impl"], row["output"]),
            f"{row['error']:.1e}" if row["error"] else "0",
            f"{row['limit']:g}",
            " ".join(f"{name}={_short(value)}" for name, value in row["at"].items()),
        ]
        for row in worst_rows(document)
    ]
    lines = [table(header, cells)]
    lines += [f"{row['op']}: no {row['impl']}: {row['reason']}" for row in document["unavailable"]]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
