"""The steps on large data, on small ones."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pdrec_fast as pf
from bench import large_steps
from bench.large import DONE, SIZES, STEPS, main, measured, rows_of
from bench.large_steps import Phases, write_records

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"seconds", "cpu_seconds", "peak_gib"}
SMALL = {
    "records": 6_000,
    "users": 300,
    "items": 150,
    "parts": 3,
    "store_parts": 2,
    "shares": 2,
    "validation_users": 50,
    "evaluated_users": 40,
    "guide_users": 60,
    "guide_width": 8,
    "part_size": 100,
}


def test_records(tmp_path):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "records"
    write_records(folder, 5_001, 3, n_users=50, n_items=40)
    assert len(list(folder.iterdir())) == 3
    data = pf.Interactions.from_file(folder)
    assert data.n_records == 5_001
    assert data.n_users == 50
    counts = np.sort(np.bincount(data.items, minlength=40))[::-1]
    expected = 5_001 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()
    assert abs(counts[0] - expected[0]) < 5 * expected[0] ** 0.5
    assert abs(counts[9] - expected[9]) < 5 * expected[9] ** 0.5
    # A part that is missing is made again, the others are kept.
    kept, lost = folder / "part-00000.parquet", folder / "part-00001.parquet"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    write_records(folder, 5_001, 3, n_users=50, n_items=40)
    assert kept.stat().st_mtime_ns == before
    assert pf.Interactions.from_file(folder).fingerprint() == data.fingerprint()


def test_measured():
    output, figures = measured([sys.executable, "-c", "print('hello')"])
    assert output == "hello"
    assert set(figures) == FIGURES
    told = measured([sys.executable, "-c", "import os; print(os.environ['ONE'])"], ONE="two")
    assert told[0] == "two"
    # Of a process that a small one starts: memory of the one before it counts.
    measure = (
        "import sys; from bench.large import measured\n"
        "print(measured([sys.executable, '-c', 'b\"x\" * 300_000_000'])[1]['peak_gib'])"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, cwd=ROOT)
    assert 0.27 < float(done.stdout) < 0.4, done.stderr
    with pytest.raises(SystemExit, match="exit status 3"):
        measured([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_steps_one_after_the_other(tmp_path):
    pytest.importorskip("duckdb")
    sizes, told = argparse.Namespace(**SMALL, memory="100MB"), {}
    for step in STEPS:
        phases = Phases()
        told[step] = large_steps.FUNCTIONS[step](tmp_path, sizes, phases)
        assert all(
            set(phase) == {"seconds", "cpu_seconds", "peak_gib"} for phase in phases.values()
        )
        told[step]["phases"] = list(phases)
    assert told["open"]["summary"]["items"] == 150
    assert told["train"]["summary"]["records"] < told["open"]["summary"]["records"]
    assert {"split", "epoch", "validation", "fit", "save"} <= set(told["train"]["phases"])
    assert told["evaluate"]["cases"] == 40
    assert 0 < told["evaluate"]["ndcg@10"] < 1
    assert told["guide"]["summary"]["users"] == 60
    users = told["open"]["summary"]["users"]
    assert 100 < users < 200  # so that one part of two is there
    assert (told["preferences"]["parts"], told["preferences"]["users"]) == (1, users)


def test_a_step_that_is_done_is_not_done_again(tmp_path):
    pytest.importorskip("pyarrow")
    results, out = tmp_path / "results.jsonl", tmp_path / "out"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words += ["--out", str(out), "--results", str(results), "--only", "records"]
    main(words)
    main(words)
    (row,) = map(json.loads, results.read_text().splitlines())
    assert (row["step"], row["sizes"], row["threads"]) == ("records", SMALL, 1)
    assert row["seconds"] > row["phases"]["generate"]["seconds"]
    assert row["peak_gib"] >= row["phases"]["generate"]["peak_gib"] > 0
    assert row["environment"]["cores"] >= 1
    assert (out / DONE).read_text() == results.read_text()
    with pytest.raises(SystemExit, match=r"of other sizes, .*give another --out"):
        rows_of(out, {name: default for name, (default, _) in SIZES.items()})
