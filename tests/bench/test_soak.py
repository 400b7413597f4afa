"""Rounds of the daily jobs, and that what grows is seen."""

import json
import os
import tempfile
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

import pdrec_fast as pf

pytest.importorskip("uvicorn", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("fastapi", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("scipy")
pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")

from bench.machine import torch_threads
from bench.soak import __main__ as command
from bench.soak.jobs import JOBS, Day, Job
from bench.soak.readings import verdict

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, whose kernel tells"
)
EVERYTHING = pf.synthetic(400, 300, seed=0)


@pytest.mark.filterwarnings("ignore")
def test_a_day_and_the_next(tmp_path):
    often = [job for job in JOBS if job.name != "export"]  # half a minute
    assert len(often) == len(JOBS) - 1
    days = list(islice(command.rounds(often, EVERYTHING, tmp_path, 1.0), 2))
    assert [day["failed"] for day in days] == [{}, {}]
    assert days[0]["cpu"].keys() == {job.name for job in often}
    assert days[1]["cpu"].keys() == {job.name for job in often if job.every == 1}
    for day in days:
        assert 0 < day["malloc"] < day["rss"]
        assert 0 < day["private"] <= day["pss"] <= day["rss"]
        assert day["descriptors"] > 2
        assert day["files"] == day["tensors"] - days[0]["tensors"] == 0
    assert list(tmp_path.iterdir()) == []


def nothing(day: Day) -> None:
    pass


kept: list = []
wake = threading.Event()


def leak(day: Day) -> None:
    kept.append(torch.ones(2**23))  # 32 MiB, far above what the kernel moves about
    kept.append(os.fdopen(os.open(os.devnull, os.O_RDONLY)))
    threading.Thread(target=wake.wait).start()
    os.close(tempfile.mkstemp()[0])


@pytest.mark.parametrize(
    ("job", "grows"), [(nothing, []), (leak, ["private", "descriptors", "threads", "files"])]
)
def test_leaks_are_seen(tmp_path, job, grows):
    wake.clear()
    try:
        out = tmp_path / "soak.jsonl"
        command.soak([Job(job)], EVERYTHING, out, hours=0)
        *lines, summary = map(json.loads, out.read_text().splitlines())
        assert len(lines) == summary["rounds"] == command.FEWEST_ROUNDS
        # So short a time says nothing of an hour: let a round be one.
        found = verdict([line | {"hours": line["round"]} for line in lines], most=8.0)
        assert found["grows"] == grows
        assert found["flat"] is not bool(grows)
        if grows:
            assert 24 < found["mib_an_hour"]["private"]["slope"] < 40
            assert lines[-1]["tensors"] - lines[0]["tensors"] == len(lines) - 1
    finally:
        wake.set()
        for each in kept[1::2]:
            each.close()
        kept.clear()


def test_odd_rounds_do_not_move_the_slope():
    counts = {"descriptors": 9, "threads": 8, "files": 0, "malloc": 1.0}
    odd = [counts | {"hours": n / 10, "private": 400.0 + 50 * (n % 7 == 0)} for n in range(40)]
    assert verdict(odd, most=1.0)["flat"]
    slow = [line | {"private": line["private"] + 3 * line["hours"]} for line in odd]
    found = verdict(slow, most=1.0)
    assert found["grows"] == ["private"]
    assert found["mib_an_hour"]["private"]["slope"] == pytest.approx(3, abs=0.2)


def broken(day: Day) -> None:
    raise ValueError("no")


@pytest.mark.parametrize(("job", "status"), [(nothing, 0), (broken, 1)])
def test_the_command(tmp_path, monkeypatch, capsys, job, status):
    monkeypatch.setattr(command, "JOBS", [Job(job)])
    out = tmp_path / "soak.jsonl"
    with torch_threads(1):
        arguments = ["--hours", "0", "--out", str(out), "--most", "1e9", "--share", "0.9"]
        assert command.main(arguments) == status
    summary = json.loads(out.read_text().splitlines()[-1])
    assert json.loads(capsys.readouterr().out) == summary
    assert summary["failed"] == ({"broken": "ValueError: no"} if status else {})
    assert [point["round"] for point in summary["points"]][-1] == command.FEWEST_ROUNDS - 1


def test_a_share_out_of_range_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--share", "0", "--out", str(tmp_path / "soak.jsonl")])
    assert "--share must lie in (0, 1], got 0.0" in capsys.readouterr().err
