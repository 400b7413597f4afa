"""Interval weights: the formula by hand, and Numba against the reference, jitted and not."""

import logging
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising import interval_weights as op
from pdrec_fast.ops.denoising.interval_weights import interval_weights

IMPLS = ["reference", "numba"]


def random_rows(seed=0, n_users=203):
    """Rows of 0 to 40 sorted day-resolution times; some rows fall on one day."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 41, n_users) * rng.integers(0, 2, n_users)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    days = [np.sort(rng.integers(0, rng.choice([1, 5, 900]), n)) for n in lengths]
    return indptr, np.concatenate(days) * 86_400.0 + 1.3e9


@pytest.mark.parametrize("impl", IMPLS)
def test_interval_by_hand(impl):
    indptr = np.array([0, 0, 4, 5, 8, 8])
    timestamps = np.array([10.0, 10.0, 15.0, 20.0, 7.0, 3.0, 3.0, 3.0])
    weights = interval_weights(indptr, timestamps, 0.1, 0.5, impl=impl)
    assert weights.dtype == np.float32
    expected = np.array([0.1, 0.1, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5], dtype=np.float32)
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_rank_is_linspace_in_every_row(impl):
    indptr, timestamps = random_rows()
    weights = interval_weights(indptr, timestamps, 0.1, 0.7, "rank", impl)
    rows = [np.linspace(0.1, 0.7, n) for n in np.diff(indptr)]
    np.testing.assert_array_equal(weights, np.concatenate(rows).astype(np.float32))


@pytest.mark.parametrize("impl", IMPLS)
def test_without_timestamps_interval_falls_back_to_rank(impl):
    indptr = np.array([0, 3, 4])
    weights = interval_weights(indptr, None, 0.2, 1.0, "interval", impl)
    np.testing.assert_array_equal(weights, np.array([0.2, 0.6, 1.0, 0.2], dtype=np.float32))


@pytest.mark.parametrize("impl", IMPLS)
def test_none_is_ones(impl):
    weights = interval_weights(np.array([0, 3]), None, 0.2, 0.3, "none", impl)
    np.testing.assert_array_equal(weights, np.ones(3, dtype=np.float32))


@pytest.mark.parametrize("impl", IMPLS)
def test_decay_falls_from_the_last_record_back(impl):
    indptr, timestamps = np.array([0, 3, 3, 4]), np.zeros(4)
    weights = interval_weights(indptr, timestamps, 0.0, 1.0, "decay", impl, decay=0.5)
    np.testing.assert_array_equal(weights, np.array([0.25, 0.5, 1.0, 1.0], dtype=np.float32))
    bounded = interval_weights(indptr, None, 0.2, 1.0, "decay", impl, decay=0.5)
    np.testing.assert_array_equal(bounded, np.array([0.4, 0.6, 1.0, 1.0], dtype=np.float32))


def test_half_life_falls_with_the_time():
    indptr, timestamps = np.array([0, 3, 3, 4]), np.array([0.0, 10.0, 20.0, 7.0])
    weights = interval_weights(indptr, timestamps, 0.0, 1.0, "half-life", half_life=10.0)
    np.testing.assert_array_equal(weights, np.array([0.25, 0.5, 1.0, 1.0], dtype=np.float32))
    given = indptr, None, 0.0, 1.0
    plain = interval_weights(*given, "decay", decay=0.5)  # where there are no times
    np.testing.assert_array_equal(interval_weights(*given, "half-life", decay=0.5), plain)
    with pytest.raises(ValueError, match="half_life must be positive"):
        interval_weights(indptr, timestamps, 0.0, 1.0, "half-life", half_life=0.0)
    with pytest.raises(BackendError, match="powers"):
        interval_weights(indptr, timestamps, 0.0, 1.0, "half-life", "numba")


@pytest.mark.parametrize("decay", [0.0, 1.1, float("nan")])
def test_refuses_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match="decay must lie in"):
        interval_weights(np.array([0, 1]), None, 0.0, 1.0, "decay", decay=decay)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("weighting", ["interval", "rank", "decay", "none"])
@pytest.mark.parametrize("indptr", [[0], [0, 0, 0]])
def test_no_records(impl, weighting, indptr):
    assert interval_weights(np.array(indptr), np.array([]), 0, 1, weighting, impl).shape == (0,)


@pytest.mark.parametrize("weighting", ["interval", "rank", "decay"])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_numba_equals_reference_bit_for_bit(weighting, n_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    for seed in range(5):
        indptr, timestamps = random_rows(seed)
        given = indptr, timestamps, 0.1, 0.7, weighting
        reference = interval_weights(*given, "reference", decay=0.83)
        found = interval_weights(*given, "numba", decay=0.83)
        np.testing.assert_array_equal(found.view(np.int32), reference.view(np.int32))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e12, 1e12), max_size=6), max_size=5),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_bits_and_bounds_of_any_rows(rows, bounds):
    w_min, w_max = sorted(bounds)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    timestamps = np.array([t for row in rows for t in sorted(row)])
    reference, numba = (
        interval_weights(indptr, timestamps, w_min, w_max, impl=impl) for impl in IMPLS
    )
    np.testing.assert_array_equal(reference, numba)
    assert (reference >= np.float32(w_min)).all()
    assert (reference <= np.float32(w_max)).all()
    for start, stop in pairwise(indptr):
        assert (np.diff(reference[start:stop]) >= 0).all()
        # w_min + (w_max - w_min) is w_max up to rounding, which is relative to the larger.
        assert start == stop or abs(reference[stop - 1] - w_max) <= 1e-6 * np.abs(bounds).max()


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_integer_inputs(impl):
    indptr, timestamps = random_rows()
    expected = interval_weights(indptr, timestamps, 0.1, 0.7, impl=impl)
    strided = np.repeat(indptr.astype(np.int32), 2)[::2], np.repeat(timestamps, 3)[::3]
    np.testing.assert_array_equal(interval_weights(*strided, 0.1, 0.7, impl=impl), expected)
    whole = timestamps.astype(np.int64)
    np.testing.assert_array_equal(interval_weights(indptr, whole, 0.1, 0.7, impl=impl), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("row", [[5.0, 4.0, 6.0], [5.0, 9.0, 6.0], [5.0, 9.0, 5.0]])
def test_unsorted_rows_are_refused(impl, row):
    indptr = np.array([0, 0, 2, 5])
    with pytest.raises(ValueError, match=r"row 2 \(records 2 to 4\)"):
        interval_weights(indptr, np.array([1.0, 2.0, *row]), 0.1, 0.5, impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_min": 0.6}, "w_min=0.6 and w_max=0.5"),
        ({"w_max": float("inf")}, "must be finite"),
        ({"w_min": float("nan")}, "must be finite"),
        ({"weighting": "time"}, "unknown weighting='time'"),
        ({"impl": "cuda"}, "unknown impl='cuda'"),
        ({"indptr": np.array([1, 2])}, "must start at 0"),
        ({"indptr": np.array([0, 2, 1])}, r"indptr\[1\]=2 is followed by 1"),
        ({"indptr": np.array([])}, "1-d integer array"),
        ({"indptr": np.array([[0, 2]])}, "1-d integer array"),
        ({"indptr": np.array([0, 3])}, r"shape \(2,\) but indptr ends at 3"),
        ({"timestamps": np.array([1.0, np.nan])}, r"timestamps\[1\]=nan must be finite"),
    ],
)
def test_arguments_are_checked(change, message):
    arguments = {
        "indptr": np.array([0, 2]),
        "timestamps": np.array([1.0, 2.0]),
        "w_min": 0.1,
        "w_max": 0.5,
    }
    with pytest.raises(ValueError, match=message):
        interval_weights(**(arguments | change))


def test_auto_takes_numba_for_large_data_only(monkeypatch):
    def chosen(n_records):
        return next(iter(op._offered(n_records, "interval")))

    assert chosen(114_487) == "reference"
    assert chosen(100_000_000) == "numba"
    monkeypatch.setattr(op.importlib.util, "find_spec", lambda name: None)
    assert op._offered(100_000_000, "interval")["numba"] == "numba is not installed"


def test_auto_logs_why_it_does_without_numba(monkeypatch, caplog):
    monkeypatch.setattr(op.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(op, "_NUMBA_PAYS_FROM", 0)
    with caplog.at_level(logging.WARNING, logger="pdrec_fast"):
        interval_weights(np.array([0, 1]), np.array([1.0]), 0.1, 0.5)
    assert "numba is not installed" in caplog.text


COMPARE = """
import os, sys
import numpy as np, torch
torch.set_num_threads(2)
from pdrec_fast.ops.denoising.interval_weights import interval_weights
indptr = np.array([0, 3, 3, 4, 9])
timestamps = np.array([1.0, 2.5, 7.0, 4.0, 1.0, 1.0, 2.0, 3.0, 3.0])
interval_weights(indptr, timestamps, 0.1, 0.7)
assert "numba" not in sys.modules, "auto imported Numba for small data"
for weighting in ("interval", "rank"):
    runs = [interval_weights(indptr, timestamps, 0.1, 0.7, weighting, impl)
            for impl in ("reference", "numba")]
    assert (runs[0] == runs[1]).all(), runs
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    run = interval_weights(indptr, timestamps, 0.1, 0.7, "rank", "numba")
    os._exit(0 if (run == runs[1]).all() else 1)
assert os.waitpid(child, 0)[1] == 0, "a forked child cannot call the kernel"
from pdrec_fast.kernels.numba.denoising.interval_weights import _interval_rows
print("jitted" if hasattr(_interval_rows, "signatures") else "interpreted")
"""


def run_comparison(**environment):
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_jitted_in_a_fresh_process(tmp_path):
    assert run_comparison(NUMBA_CACHE_DIR=str(tmp_path)) == "jitted"
    assert list(tmp_path.rglob("*.nbi")), "the kernels were not cached"


def test_with_jit_disabled():
    assert run_comparison(NUMBA_DISABLE_JIT="1") == "interpreted"


def test_without_any_writable_cache(monkeypatch):
    from pdrec_fast.kernels.numba.denoising import interval_weights as kernels

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "njit", njit)
    assert kernels._compiled(sorted) is sorted
