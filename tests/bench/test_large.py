"""The generator of large data, on small ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pdrec_fast as pf
from bench.large import measured, write_records

ROOT = Path(__file__).resolve().parents[2]


def test_records(tmp_path):
    pytest.importorskip("pyarrow")
    write_records(tmp_path / "records", 5_001, 3, n_users=50, n_items=40)
    assert len(list((tmp_path / "records").iterdir())) == 3
    data = pf.Interactions.from_file(tmp_path / "records")
    assert data.n_records == 5_001
    assert data.n_users == 50
    counts = np.sort(np.bincount(data.items, minlength=40))[::-1]
    expected = 5_001 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()
    assert abs(counts[0] - expected[0]) < 5 * expected[0] ** 0.5
    assert abs(counts[9] - expected[9]) < 5 * expected[9] ** 0.5


def test_measured():
    assert "hello\n" in measured([sys.executable, "-c", "print('hello')"])
    # Of a process that a small one starts: memory of the one before it counts.
    measure = (
        "import sys; from bench.large import measured\n"
        "print(measured([sys.executable, '-c', 'b\"x\" * 300_000_000']))"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, cwd=ROOT)
    assert 280 < int(done.stdout.split("most ")[1].split()[0]) < 400, done.stderr
    with pytest.raises(SystemExit, match="exit status 3"):
        measured([sys.executable, "-c", "raise SystemExit(3)"])
