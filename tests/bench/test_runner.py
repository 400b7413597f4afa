"""The check before timing, the arithmetic of rows, and the document."""

import json
import time
from functools import partial

import numpy as np
import pytest
import torch

from bench import machine, registry, report, runner
from bench.machine import Clock, Rates, measured_call, torch_threads
from bench.registry import Case, Floor, Growth, Implementation, call
from bench.runner import MismatchError, Settings, interleave, run, summarize, verify
from pdrec_fast.errors import BackendError

QUICK = Settings(threads=1, seconds=0.0)
CLOCK = Clock(torch.device("cpu"))
ROW_FIELDS = {
    "op": str,
    "kind": str,
    "impl": str,
    "role": str,
    "sizes": dict,
    "data": str,
    "threads": int,
    "n": int,
    "median": float,
    "iqr": float,
    "min": float,
    "samples": list,
    "floor": dict,
    "ratio_to_reference": float,
    "ratio_to_floor": float,
    "peak_memory": int,
    "note": str,
}


def case_of(reference="plain", **implementations):
    made = {
        name: each if isinstance(each, Implementation) else call(each)
        for name, each in implementations.items()
    }
    return Case(made, reference=reference, floor=Floor(bytes=2**20))


@pytest.fixture
def register(monkeypatch):
    """``register(name, make, **fields)`` into a registry of this test's own."""
    monkeypatch.setattr(registry, "OPERATIONS", {})
    monkeypatch.setattr(registry, "FACTS", {})

    def add(name, make, **fields):
        sizes = {"sizes": {"n": 4}, "small": {"n": 2}} | fields
        registry.operation(name, "kernel", **sizes)(make)

    return add


def zeros(n, plus=0.0):
    return torch.zeros(n) + plus


@pytest.mark.parametrize(
    ("got", "expected", "agrees"),
    [
        (torch.tensor([1, 2]), np.array([1, 2], np.int32), True),
        ((np.array([1, 2]), 3), (torch.tensor([1, 2]), 3), True),
        (torch.tensor([1, 2]), torch.tensor([2, 1]), False),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0]), False),
        (torch.zeros(2), torch.zeros(3), False),
        ((torch.zeros(2),), (torch.zeros(2), torch.zeros(2)), False),
    ],
)
def test_verify_compares_results(got, expected, agrees):
    case = case_of(ours=lambda: got, plain=lambda: expected)
    if agrees:
        assert verify("op", case, {}) == {}
    else:
        with pytest.raises(MismatchError):
            verify("op", case, {})


def test_a_mismatch_names_operation_sizes_and_implementation():
    case = case_of(ours=partial(zeros, 3, 1e-3), plain=partial(zeros, 3))
    with pytest.raises(MismatchError, match=r"^op at {'n': 3}: 'ours' differs from 'plain'"):
        verify("op", case, {"n": 3})


def test_the_tolerance_is_the_cases():
    implementations = {"ours": call(zeros, 3, 1e-3), "plain": call(zeros, 3)}
    verify("op", Case(implementations, "plain", Floor(), atol=2e-3), {})
    with pytest.raises(MismatchError):
        verify("op", Case(implementations, "plain", Floor(), atol=5e-4), {})


def test_result_stands_for_what_the_call_returns():
    case = case_of(ours=Implementation(lambda: list, result=lambda: 1), plain=lambda: 1)
    assert verify("op", case, {}) == {}


def test_what_cannot_be_compared_runs_but_is_not_compared():
    calls = []
    partial_work = Implementation(lambda: partial(calls.append, 1), comparable=False)
    assert verify("op", case_of(plain=lambda: 1, part=partial_work), {}) == {}
    assert calls == [1]


def test_implementations_that_cannot_run_here_are_named_with_the_reason():
    def absent():
        raise BackendError("not built")

    assert verify("op", case_of(ours=absent, plain=int), {}) == {"ours": "not built"}


def test_summary_by_hand():
    summary = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert summary["median"] == 3.0
    assert summary["iqr"] == 4.0 - 2.0
    assert summary["min"] == 1.0
    assert summary["n"] == 5
    assert summarize([2.0])["iqr"] == 0.0


def test_rounds_alternate_and_repeat_the_fast():
    order = []
    runs = {name: partial(order.append, name) for name in ("slow", "fast")}
    settings = Settings(seconds=0.0)
    samples = interleave(runs, {"slow": 0.0, "fast": 0.0}, settings, CLOCK)
    assert order == ["slow", "fast"] * runner.MIN_ROUNDS
    assert {name: len(times) for name, times in samples.items()} == {"slow": 3, "fast": 3}

    order.clear()
    interleave(runs, {"slow": 2.5, "fast": 1.0}, Settings(seconds=1e-6 + 3 * 2.5), CLOCK)
    assert order[:6] == ["slow", "fast", "fast"] * 2


def test_more_rounds_within_the_budget():
    pause = {"only": partial(time.sleep, 0.001)}
    samples = interleave(pause, {"only": 0.001}, Settings(seconds=0.05), CLOCK)
    assert len(samples["only"]) > 3


def test_rows_by_hand(register, monkeypatch):
    """Ratios, the share and the floor, with a clock that is the test's own."""
    durations = {"ours": 2.0, "plain": 1.0}
    monkeypatch.setattr(
        runner, "interleave", lambda runs, *_: {name: [durations[name]] * 3 for name in runs}
    )
    rates = Rates(seconds=0.0)
    monkeypatch.setattr(rates, "_best_seconds", lambda run: 0.25)

    def make(n):
        plain = Implementation(lambda: int, share=0.1, note="a tenth")
        floor = Floor(bytes=2**21, flops=1.0)
        return Case({"ours": call(int), "plain": plain}, "plain", floor, sizes={"more": n + 1})

    register("op", make)
    document = run([], QUICK, rates)
    ours, plain = document["rows"]
    assert plain["median"] == 10.0
    assert plain["note"] == "a tenth"
    assert ours["ratio_to_reference"] == 0.2
    assert ours["sizes"] == {"n": 4, "more": 5}
    # The "copy" of 2^21 bytes took 0.25 s and so does the floor; the product of one flop is less.
    assert ours["floor"]["seconds"] == 0.25
    assert ours["floor"]["binding"] == "copy"
    assert ours["ratio_to_floor"] == 8.0
    assert [row["role"] for row in (ours, plain)] == ["subject", "reference"]


def test_a_growth_point_at_the_benched_sizes_is_not_timed_again(register):
    calls = []
    register(
        "op",
        lambda n: case_of("ours", ours=partial(calls.append, n)),
        growth=(Growth("n", (1, 2, 3, 4)),),
    )
    document = run([], QUICK)
    curve = report.timed_rows(document, growth=True)
    assert [row["sizes"]["n"] for row in curve] == [1, 2, 3, 4]
    assert curve[-1]["median"] == document["rows"][0]["median"]
    checked, per_case = 1, 1 + runner.MIN_ROUNDS
    assert len(calls) == checked + 4 * per_case


def test_files_of_operations_that_cannot_be_imported_fail_the_run(register, monkeypatch):
    monkeypatch.setattr(registry, "BROKEN", {"newer": "ImportError: no such op"})
    register("op", lambda n: case_of(plain=int))
    document = run([], QUICK)
    assert list(document["failures"]) == ["newer"]
    assert "no such op" in document["failures"]["newer"]
    assert len(document["rows"]) == 1


def test_document_schema(register, tmp_path):
    growth = (Growth("n", (1, 2, 3, 4)),)
    register(
        "op",
        lambda n: case_of(ours=partial(zeros, n), plain=partial(zeros, n)),
        growth=growth,
        threads=1,
    )
    registry.fact("share")(lambda: [{"value": 0.5, "unit": "of it", "sizes": {}, "data": ""}])
    report.write(run([], QUICK), tmp_path / "new" / "results.json")
    document = report.read(tmp_path / "new" / "results.json")
    assert document["failures"] == {}
    timed = report.timed_rows(document)
    curve = report.timed_rows(document, growth=True)
    for row in timed:
        for name, kind in ROW_FIELDS.items():
            assert isinstance(row[name], kind), name
    assert [row["impl"] for row in timed] == ["ours", "plain"]
    assert [row["sizes"]["n"] for row in curve] == [1, 2, 3, 4]
    assert {row["impl"] for row in curve} == {"ours"}
    assert document["rates"][0]["threads"] == 1
    for name in ("python", "torch", "numpy", "pdrec_fast", "cpu", "cores", "threads", "revision"):
        assert name in document["environment"]
    text = report.format_document(document)
    assert "plain *" in text
    assert "share: 0.5 of it" in text


def test_a_wrong_implementation_is_not_timed_and_fails_the_run(register):
    register("bad", lambda n: case_of(ours=partial(zeros, n, 1.0), plain=partial(zeros, n)))
    register("good", lambda n: case_of(ours=partial(zeros, n), plain=partial(zeros, n)))
    document = run([], QUICK)
    assert list(document["failures"]) == ["bad"]
    assert {row["op"] for row in document["rows"]} == {"good"}
    assert "FAILED bad: bad at {'n': 2}: 'ours' differs" in report.format_document(document)


def test_results_wrong_only_at_the_benched_size_are_caught(register):
    def make(n):
        return case_of(ours=partial(zeros, n, float(n > 2)), plain=partial(zeros, n))

    register("op", make, check_at_size=True)
    assert "at {'n': 4}" in run([], QUICK)["failures"]["op"]


def test_an_error_in_one_operation_leaves_the_others(register):
    register("broken", lambda n: case_of(plain=lambda: 1 / 0))
    register("good", lambda n: case_of(plain=int))
    document = run([], QUICK)
    assert document["failures"] == {"broken": "ZeroDivisionError: division by zero"}
    assert len(document["rows"]) == 1


def test_unavailable_implementations_are_reported_and_not_timed(register):
    def absent():
        raise BackendError("not built")

    register("op", lambda n: case_of(ours=absent, plain=int), growth=(Growth("n", (1, 2, 3, 4)),))
    document = run([], QUICK)
    assert document["unavailable"] == [{"op": "op", "impl": "ours", "reason": "not built"}]
    assert [row["impl"] for row in document["rows"]] == ["plain"]


def test_what_does_not_begin_in_time_is_left_out_with_a_note(register):
    register("op", lambda n: case_of(plain=int))
    kept = []
    late = Settings(threads=1, seconds=0.0, until=time.monotonic() - 1)
    document = run([], late, keep=lambda each: kept.append(len(each["skipped"])))
    assert document["rows"] == []
    assert document["skipped"] == [{"op": "op", "sizes": {"n": 4}, "reason": "time is up"}]
    assert kept == [1]
    assert "op left out at n=4: time is up" in report.format_document(document)


def test_ours_alone(register):
    register("op", lambda n: case_of(ours=int, plain=int), growth=(Growth("n", (1, 2, 3, 4)),))
    rows = run([], Settings(threads=1, seconds=0.0, ours=True))["rows"]
    assert [row["impl"] for row in rows] == ["ours"]
    assert rows[0]["ratio_to_reference"] is None


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    with torch_threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not machine._CLEAR_REFS.exists(), reason="peak memory needs Linux")
def test_peak_memory_of_a_call():
    buffer = 50_000_000
    _, peak = measured_call(lambda: bytearray(b"x" * buffer))
    assert 0.9 * buffer < peak < 3 * buffer
    # What an earlier call touched does not hide in the peak before this one.
    _, peak = measured_call(lambda: None)
    assert peak < 0.1 * buffer


def test_rates_keep_the_best_and_follow_the_footprint():
    rates = Rates(seconds=0.0)
    seconds = iter([0.5, 0.25, 1.0])
    rates._best_seconds = lambda run: next(seconds)
    floor = Floor(bytes=3 * 2**20)
    for _ in range(3):
        rates.measure(floor)
    (entry,) = rates.report()
    assert entry["footprint"] == 2 * 2**20
    assert entry["bytes_per_second"] == 2 * 2**20 / 0.25
    assert rates.seconds_of(floor, torch.get_num_threads()) == (3 / 2 * 0.25, "copy")


def test_measured_rates_are_plausible():
    rates = Rates(seconds=0.0)
    rates.measure(Floor(bytes=2**20, flops=1.0))
    copy, product = rates.report()
    assert 1e7 < copy["bytes_per_second"] < 1e13
    assert 1e7 < product["flops_per_second"] < 1e16


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.5 s"), (0.0123456, "12.3 ms"), (1e-6, "1 us"), (2e-8, "0.02 us"), (None, "-")],
)
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_sizes_of_memory():
    assert [report.size(v) for v in (3.2e9, 1e6, 4_096, 0)] == ["3.2 GB", "1 MB", "4.1 kB", "0 kB"]


def test_reading_what_is_no_results_document(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match="no such file; write one with python -m bench run"):
        report.read(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        report.read(path)
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="not results of format 1"):
        report.read(path)
