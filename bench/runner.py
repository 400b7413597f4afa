"""Checks every implementation, then times all of an operation's interleaved."""

from __future__ import annotations

import copy
import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from bench import registry
from bench.machine import Clock, Rates, environment, measured_call, torch_threads
from bench.registry import Case, Floor, Growth, Operation
from bench.target import CPU, Target, targeting
from pdrec_fast.errors import BackendError

FORMAT = 1
MIN_ROUNDS, MAX_ROUNDS = 3, 100
TINY_ROUNDS = 1
MAX_REPEATS = 5  # of a fast implementation in every round of a slow one


class MismatchError(Exception):
    """An implementation does not agree with its reference."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        threads: of operations that fix no number themselves.
        seconds: of timing per case, beyond the least number of rounds.
        growth: whether to measure growth curves, on a CPU.
        ours: time only what the package does, without references and baselines.
        target: what to make the cases for.
        tiny: time at the small sizes, to see that all runs.
        until: of ``time.monotonic``; what has not begun by then is left out, with a note.
    """

    threads: int = 2
    seconds: float = 4.0
    growth: bool = True
    ours: bool = False
    target: Target = CPU
    tiny: bool = False
    until: float = math.inf


def run(
    only: Iterable[str],
    settings: Settings,
    rates: Rates | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Run the named operations, or all: the document that ``--json`` writes.

    Its ``failures`` map an operation to what went wrong with it; the others are complete.

    Args:
        keep: called with the document so far after every operation.
    """
    names = list(only) or [*registry.OPERATIONS, *registry.FACTS, *registry.BROKEN]
    registry.check_names(names)
    rates = rates or Rates(device=settings.target.device)
    document: dict[str, Any] = {
        "format": FORMAT,
        "environment": environment(settings.threads, settings.target),
        "rates": [],
        "rows": [],
        "unavailable": [],
        "skipped": [],
        "failures": {},
    }
    jobs = _jobs(names, settings, explicit=bool(only))
    for number, (name, sizes) in enumerate(jobs, start=1):
        _say(f"[{number}/{len(jobs)}] {name} {_brief(sizes)}".rstrip())
        if time.monotonic() > settings.until:
            _say("  left out: the time is up")
            document["skipped"].append({"op": name, "sizes": dict(sizes), "reason": "time is up"})
            continue
        label = f"{name} {_brief(sizes)}" if settings.target.gpu else name
        _run_job(name, sizes, label, settings, rates, document)
        _apply_floors(document["rows"], rates)
        document["rates"] = rates.report()
        keep(document)
    keep(document)  # with what was left out last
    return document


def _jobs(
    names: Iterable[str], settings: Settings, explicit: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, sizes) in the order to run: for a GPU, all operations' first sizes, then others."""
    operations, others = [], []
    for name in names:
        operation = registry.OPERATIONS.get(name)
        if operation is None:
            others.append((name, {}))
            continue
        sizes = operation.gpu_sizes if settings.target.gpu else (operation.sizes,)
        if not any(sizes):
            if explicit:
                device = "GPU" if settings.target.gpu else "CPU"
                raise ValueError(f"operation {name} has no sizes to be timed at on a {device}")
            continue
        if settings.tiny:
            sizes = tuple(dict.fromkeys(tuple(_small(operation, each).items()) for each in sizes))
        operations.append([(name, dict(each)) for each in sizes])
    if settings.target.gpu:
        others = [job for job in others if job[0] in registry.BROKEN or explicit]
        rounds = zip_longest(*operations)
    else:
        rounds = iter(operations)
    return [job for each in rounds for job in each if job is not None] + others


def _run_job(
    name: str,
    sizes: Mapping[str, Any],
    label: str,
    settings: Settings,
    rates: Rates,
    document: dict[str, Any],
) -> None:
    try:
        if name not in registry.OPERATIONS and name not in registry.FACTS:
            raise ImportError(f"not registered; in bench: {registry.BROKEN}")
        if name in registry.FACTS:
            document["rows"] += [
                {"op": name, "kind": "fact"} | row for row in registry.FACTS[name]()
            ]
        else:
            with targeting(settings.target):
                operation = registry.OPERATIONS[name]
                rows, unavailable = run_operation(operation, settings, rates, sizes)
            document["rows"] += rows
            document["unavailable"] += unavailable
    except MismatchError as error:
        document["failures"][label] = str(error)
        _say(f"  MISMATCH, not timed: {error}")
    except Exception as error:
        document["failures"][label] = f"{type(error).__name__}: {error}"
        _say(traceback.format_exc())


def run_operation(
    operation: Operation, settings: Settings, rates: Rates, sizes: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The rows of one operation, and its implementations that cannot run here, with the reason.

    Raises:
        MismatchError: before anything is timed.
    """
    if settings.target.gpu:
        torch.compiler.reset()  # each case compiles for its own shapes alone
    if settings.target.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    with torch_threads(operation.threads or settings.threads):
        small_sizes = _small(operation, sizes)
        small = operation.make(**small_sizes)
        names = [small.subject] if settings.ours else list(small.implementations)
        quick = [
            name for name in names if settings.tiny or not small.implementations[name].slow_start
        ]
        unavailable = verify(operation.name, small, small_sizes, quick)
        names = [name for name in names if name not in unavailable]
        case = operation.make(**sizes)
        if operation.check_at_size and not settings.ours and not settings.tiny:
            unavailable |= verify(operation.name, case, sizes, names)
        names = [
            name for name in names if name not in unavailable and case.implementations[name].timed
        ]
        rows = time_case(operation, case, sizes, names, settings, rates)
        if settings.growth and not (settings.ours or settings.target.gpu) and case.subject in names:
            subject = rows[names.index(case.subject)]
            for growth in operation.growth:
                rows += _growth_rows(operation, growth, subject, settings, rates)
    return rows, [
        {"op": operation.name, "impl": name, "reason": reason}
        for name, reason in unavailable.items()
    ]


def _small(operation: Operation, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The small sizes, with what ``sizes`` name in a word, such as the precision."""
    words = {name: value for name, value in sizes.items() if isinstance(value, str)}
    return dict(operation.small) | words


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
                _assert_agrees(case, got, expected)
            except AssertionError as error:
                raise MismatchError(
                    f"{operation} at {dict(sizes)}: {name!r} differs from {case.reference!r} "
                    f"(rtol={case.rtol}, atol={case.atol}): {error}"
                ) from None
    return unavailable


def _assert_agrees(case: Case, got: Any, expected: Any) -> None:
    if not case.by_norm:
        torch.testing.assert_close(got, expected, rtol=case.rtol, atol=case.atol, check_dtype=False)
        return
    for at, (mine, wanted) in enumerate(zip(_tuple(got), _tuple(expected), strict=True)):
        assert mine.shape == wanted.shape, f"result {at} is {mine.shape}, not {wanted.shape}"
        error = torch.linalg.vector_norm(mine.double() - wanted.double())
        size = torch.linalg.vector_norm(wanted.double())
        assert error <= case.rtol * size, f"result {at} is off by {error / size:.3g} of its norm"


def _tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


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
    device = settings.target.device
    first = {name: measured_call(call, device) for name, call in runs.items()}
    clock = Clock(device, events=operation.kind == "kernel")
    once = {name: seconds for name, (seconds, _) in first.items()}
    samples = interleave(runs, once, settings, clock)
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
    reference = next((row["median"] for row in rows if row["impl"] == case.ratios_to), None)
    for row in rows:
        row["ratio_to_reference"] = row["median"] / reference if reference else None
    return rows


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    first: Mapping[str, float],
    settings: Settings,
    clock: Clock,
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
    least = TINY_ROUNDS if settings.tiny else MIN_ROUNDS
    started = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= least and time.perf_counter() - started > settings.seconds:
            break
        for name, call in runs.items():
            for _ in range(repeats[name]):
                samples[name].append(clock(call))
    return samples


def summarize(samples: list[float]) -> dict[str, Any]:
    """Median, interquartile range and minimum; a single sample has no range."""
    low = high = samples[0]
    if len(samples) > 1:
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
    """Anew after every operation, as another process may disturb the rates at any one moment."""
    for row in rows:
        if "floor" in row:
            floor = Floor(*(row["floor"][name] for name in ("bytes", "flops", "dtype")))
            sides = rates.sides(floor, row["threads"]).items()
            row["shares"] = {side: seconds / row["median"] for side, seconds in sides}
            seconds, binding = rates.seconds_of(floor, row["threads"])
            row["floor"] |= {"seconds": seconds, "binding": binding}
            row["ratio_to_floor"] = row["median"] / seconds if seconds else None


def _result(case: Case, name: str) -> Any:
    implementation = case.implementations[name]
    return _as_tensors(
        implementation.result() if implementation.result else implementation.prepare()()
    )


def _as_tensors(result: Any) -> Any:
    """Arrays as tensors on the CPU, also inside tuples, so that they may be compared."""
    if isinstance(result, tuple):
        return tuple(map(_as_tensors, result))
    if isinstance(result, np.ndarray):
        return torch.tensor(result)
    return result.cpu() if isinstance(result, torch.Tensor) else result


def _role(case: Case, name: str) -> str:
    if name == case.subject:
        return "subject"
    return "reference" if name == case.ratios_to else "baseline"


def _brief(sizes: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
