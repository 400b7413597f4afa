"""Checks every implementation, then times all of an operation's interleaved."""

from __future__ import annotations

import copy
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from bench import registry
from bench.machine import Rates, environment, measured_call, torch_threads
from bench.registry import Case, Floor, Growth, Operation
from pdrec_fast.errors import BackendError

FORMAT = 1
MIN_ROUNDS, MAX_ROUNDS = 3, 100
MAX_REPEATS = 5  # of a fast implementation in every round of a slow one


class MismatchError(Exception):
    """An implementation does not agree with its reference."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        threads: of operations that fix no number themselves.
        seconds: of timing per case, beyond the least number of rounds.
        growth: whether to measure growth curves.
        ours: time only what the package does, without references and baselines.
    """

    threads: int = 2
    seconds: float = 4.0
    growth: bool = True
    ours: bool = False


def run(only: Iterable[str], settings: Settings, rates: Rates | None = None) -> dict[str, Any]:
    """Run the named operations, or all: the document that ``--json`` writes.

    Its ``failures`` map an operation to what went wrong with it; the others are complete.
    """
    names = list(only) or [*registry.OPERATIONS, *registry.FACTS, *registry.BROKEN]
    registry.check_names(names)
    rates = rates or Rates()
    document: dict[str, Any] = {
        "format": FORMAT,
        "environment": environment(settings.threads),
        "rows": [],
        "unavailable": [],
        "failures": {},
    }
    for number, name in enumerate(names, start=1):
        _say(f"[{number}/{len(names)}] {name}")
        try:
            if name not in registry.OPERATIONS and name not in registry.FACTS:
                raise ImportError(f"not registered; in bench/ops: {registry.BROKEN}")
            if name in registry.FACTS:
                document["rows"] += [
                    {"op": name, "kind": "fact"} | row for row in registry.FACTS[name]()
                ]
            else:
                rows, unavailable = run_operation(registry.OPERATIONS[name], settings, rates)
                document["rows"] += rows
                document["unavailable"] += unavailable
        except MismatchError as error:
            document["failures"][name] = str(error)
            _say(f"  MISMATCH, not timed: {error}")
        except Exception as error:
            document["failures"][name] = f"{type(error).__name__}: {error}"
            _say(traceback.format_exc())
    _apply_floors(document["rows"], rates)
    document["rates"] = rates.report()
    return document


def run_operation(
    operation: Operation, settings: Settings, rates: Rates
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The rows of one operation, and its implementations that cannot run here, with the reason.

    Raises:
        MismatchError: before anything is timed.
    """
    with torch_threads(operation.threads or settings.threads):
        small = operation.make(**operation.small)
        names = [small.subject] if settings.ours else list(small.implementations)
        unavailable = verify(operation.name, small, operation.small, names)
        names = [name for name in names if name not in unavailable]
        case = operation.make(**operation.sizes)
        if operation.check_at_size and not settings.ours:
            verify(operation.name, case, operation.sizes, names)
        rows = time_case(operation, case, operation.sizes, names, settings, rates)
        if settings.growth and not settings.ours and case.subject in names:
            subject = rows[names.index(case.subject)]
            for growth in operation.growth:
                rows += _growth_rows(operation, growth, subject, settings, rates)
    return rows, [
        {"op": operation.name, "impl": name, "reason": reason}
        for name, reason in unavailable.items()
    ]


def verify(
    operation: str, case: Case, sizes: Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, str]:
    """Hold the named implementations, or all, to the reference where they are comparable.

    Returns:
        implementations that cannot run here -> why.

    Raises:
        MismatchError: one gives another result.
    """
    expected = _result(case, case.reference)
    unavailable = {}
    for name in names or case.implementations:
        implementation = case.implementations[name]
        if name == case.reference:
            continue
        try:
            got = _result(case, name) if implementation.comparable else implementation.prepare()()
        except BackendError as error:
            unavailable[name] = str(error)
            _say(f"  {name} cannot run here: {error}")
            continue
        if implementation.comparable:
            try:
                torch.testing.assert_close(
                    got, expected, rtol=case.rtol, atol=case.atol, check_dtype=False
                )
            except AssertionError as error:
                raise MismatchError(
                    f"{operation} at {dict(sizes)}: {name!r} differs from {case.reference!r} "
                    f"(rtol={case.rtol}, atol={case.atol}): {error}"
                ) from None
    return unavailable


def time_case(
    operation: Operation,
    case: Case,
    sizes: Mapping[str, Any],
    names: Iterable[str],
    settings: Settings,
    rates: Rates,
) -> list[dict[str, Any]]:
    """One row for each named implementation, timed round-robin so that drift hits all alike."""
    runs = {name: case.implementations[name].prepare() for name in names}
    # The calls whose memory is measured also warm up.
    first = {name: measured_call(call) for name, call in runs.items()}
    samples = interleave(runs, {name: seconds for name, (seconds, _) in first.items()}, settings)
    rates.measure(case.floor)
    rows = []
    for name, times in samples.items():
        implementation = case.implementations[name]
        row = {
            "op": operation.name,
            "kind": operation.kind,
            "impl": name,
            "role": _role(case, name),
            "sizes": dict(sizes) | dict(case.sizes),
            "data": case.data,
            "threads": torch.get_num_threads(),
            **summarize([seconds / implementation.share for seconds in times]),
            "floor": asdict(case.floor),
            "peak_memory": first[name][1],
            "note": implementation.note,
        }
        rows.append(row)
        _say(f"  {_brief(sizes)}  {name}: {row['median']:.4g} s, n={row['n']}")
    reference = next((row["median"] for row in rows if row["impl"] == case.reference), None)
    for row in rows:
        row["ratio_to_reference"] = row["median"] / reference if reference else None
    return rows


def interleave(
    runs: Mapping[str, Callable[[], Any]], first: Mapping[str, float], settings: Settings
) -> dict[str, list[float]]:
    """Seconds of every call of every implementation, in rounds.

    Args:
        first: seconds of one call, by which the fast ones are repeated within a round.
    """
    longest = min(max(first.values(), default=0.0), settings.seconds / MIN_ROUNDS)
    repeats = {
        name: min(max(int(longest / max(first[name], 1e-9)), 1), MAX_REPEATS) for name in runs
    }
    samples: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - started > settings.seconds:
            break
        for name, call in runs.items():
            for _ in range(repeats[name]):
                before = time.perf_counter()
                call()
                samples[name].append(time.perf_counter() - before)
    return samples


def summarize(samples: list[float]) -> dict[str, Any]:
    """Median, interquartile range and minimum of at least two samples."""
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {
        "n": len(samples),
        "median": statistics.median(samples),
        "iqr": high - low,
        "min": min(samples),
        "samples": [float(f"{seconds:.4g}") for seconds in samples],
    }


def _growth_rows(
    operation: Operation,
    growth: Growth,
    subject: dict[str, Any],
    settings: Settings,
    rates: Rates,
) -> list[dict[str, Any]]:
    """One row per point; ``subject`` is the row at the benched sizes, which may be a point too."""
    rows = []
    for point in growth.points:
        sizes = {**operation.sizes, **growth.fixed, growth.axis: point}
        timed = [copy.deepcopy(subject)]
        if sizes != operation.sizes:
            case = operation.make(**sizes)
            timed = time_case(operation, case, sizes, [case.subject], settings, rates)
        rows += [row | {"axis": growth.axis, "ratio_to_reference": None} for row in timed]
    return rows


def _apply_floors(rows: Iterable[dict[str, Any]], rates: Rates) -> None:
    """At the end of a run, as another process may have disturbed the rates at any one moment."""
    for row in rows:
        if "floor" in row:
            seconds, binding = rates.seconds_of(Floor(**row["floor"]), row["threads"])
            row["floor"] |= {"seconds": seconds, "binding": binding}
            row["ratio_to_floor"] = row["median"] / seconds if seconds else None


def _result(case: Case, name: str) -> Any:
    implementation = case.implementations[name]
    return _as_tensors(
        implementation.result() if implementation.result else implementation.prepare()()
    )


def _as_tensors(result: Any) -> Any:
    """Arrays as tensors, also inside tuples, so that both may be compared with each other."""
    if isinstance(result, tuple):
        return tuple(map(_as_tensors, result))
    return torch.tensor(result) if isinstance(result, np.ndarray) else result


def _role(case: Case, name: str) -> str:
    if name == case.subject:
        return "subject"
    return "reference" if name == case.reference else "baseline"


def _brief(sizes: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
