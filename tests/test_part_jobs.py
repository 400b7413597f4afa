"""Jobs in parts: who does which, what becomes of those of the dead, and who joins them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pdrec_fast import part_jobs
from pdrec_fast.errors import CheckpointError
from pdrec_fast.part_jobs import do_parts, join_once, n_missing, rank_here, reserve, whole_part

N_PARTS = 7


class Job:
    """A job whose parts are their numbers, and whose whole is their sum."""

    def __init__(self, place: Path) -> None:
        self.folder, self.whole = place / "parts", place / "whole.txt"
        self.parts = [self.folder / f"part-{number}.txt" for number in range(N_PARTS)]
        self.written: list[int] = []
        reserve(self.folder, {"n": N_PARTS})

    def write(self, number: int) -> None:
        self.written.append(number)
        with whole_part(self.parts[number]) as fresh:
            fresh.write_text(f"{number}")

    def join(self) -> None:
        assert not self.whole.exists()
        self.whole.write_text(f"{sum(int(part.read_text()) for part in self.parts)}")
        self.folder.rename(self.folder.with_name("done"))

    def work(self, rank: int | None = None, world: int | None = None) -> bool:
        do_parts(self.parts, self.write, rank, world)
        return join_once(self.parts, self.join)

    def claim(self, number: int, text: str) -> Path:
        claim = self.parts[number].with_name(f"part-{number}.txt.claim")
        claim.write_text(text)
        return claim


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_many_at_once_do_every_part_once_and_one_joins(job: Job) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = [each.result() for each in [pool.submit(job.work) for _ in range(8)]]
    assert done == [True] * 8
    assert Counter(job.written) == Counter(range(N_PARTS))
    assert job.whole.read_text() == "21"
    left = {file.name for file in job.folder.with_name("done").iterdir()}
    # Nothing half-written; who looked at a part in that moment has its claim go with the folder.
    left = {name for name in left if not name.endswith(".claim")}
    assert left == {"job.json", *(part.name for part in job.parts)}


def test_ranks_do_their_own_and_the_last_joins(job: Job) -> None:
    assert not job.work(1, 3)
    assert job.written == [1, 4]
    assert not job.work(0, 3)
    assert not job.work(0, 3)  # again: there is nothing to do
    assert job.written == [1, 4, 0, 3, 6]
    assert n_missing(job.parts) == 2
    assert job.work(2, 3)
    assert job.whole.read_text() == "21"


def test_a_part_that_is_there_is_skipped(job: Job) -> None:
    job.parts[3].write_text("103")
    assert job.work()
    assert job.written == [0, 1, 2, 4, 5, 6]
    assert job.whole.read_text() == "121"


def test_an_error_gives_the_part_back(job: Job) -> None:
    def fail(number: int) -> None:
        with whole_part(job.parts[number]) as fresh:
            fresh.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        do_parts(job.parts, fail, None, None)
    assert [file.name for file in job.folder.iterdir()] == ["job.json"]


def _ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_parts_of_a_process_that_has_ended_are_taken_over_at_once(job: Job) -> None:
    host = socket.gethostname()
    job.claim(0, f"{host} {_ended_process()} {'0' * 32}\n")
    job.claim(1, f"{host} {os.getpid()} {'0' * 32}\n")  # a pod's former life
    assert job.work()
    assert sorted(job.written) == list(range(N_PARTS))


@pytest.mark.parametrize("text", ["elsewhere 1 x\n", ""], ids=["other machine", "half-written"])
def test_a_claim_whose_time_stands_still_is_taken_over(
    job: Job, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_jobs, "_STILL_SECONDS", 0.3)
    job.claim(2, text)
    os.utime(job.claim(5, text), (4e9, 4e9))  # by a clock that is ahead
    assert job.work()
    assert sorted(job.written) == list(range(N_PARTS))
    assert job.written[-2:] == [2, 5]


def test_a_claim_that_is_renewed_is_left_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_jobs, "_STILL_SECONDS", 0.5)
    monkeypatch.setattr(part_jobs, "_BEAT_SECONDS", 0.05)
    claim, done = job.claim(2, "elsewhere 1 x\n"), threading.Event()
    beats = threading.Thread(target=part_jobs._renew, args=(claim, done))
    beats.start()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(job.work)
        done.wait(1.5)  # three times as long as a claim may stand still
        assert sorted(job.written) == [0, 1, 3, 4, 5, 6]
        job.parts[2].write_text("2")
        assert working.result()
    done.set()
    beats.join()


def test_who_was_taken_for_dead_does_no_harm(job: Job) -> None:
    with whole_part(job.parts[0]) as slow:
        slow.write_text("0")
        job.write(0)
        part_jobs.remove_leftovers(job.folder)
    assert job.parts[0].read_text() == "0"
    with whole_part(job.parts[1]) as slow:
        slow.write_text("1")
        job.folder.rename(job.folder.with_name("done"))  # joined meanwhile
    assert not job.folder.exists()


def test_a_folder_is_of_one_job(job: Job, tmp_path: Path) -> None:
    reserve(job.folder, {"n": N_PARTS})
    with pytest.raises(
        CheckpointError, match=r"another job, with other n \(7 there, 8 here\); del"
    ):
        reserve(job.folder, {"n": N_PARTS + 1})
    (job.folder / "job.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"job\.json: damaged .*; delete the folder"):
        reserve(job.folder, {"n": N_PARTS})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("other", "file"):
        with pytest.raises(CheckpointError, match=f"{name}: exists and holds no such job"):
            reserve(tmp_path / name, {"n": N_PARTS})


VARIABLES = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "3"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, (None, None), (None, None)),
        ({}, (0, 1), (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (None, None), (2, 4)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (0, 2), (0, 2)),
        ({"RANK": "2"}, (None, None), (None, None)),
        (SLURM, (None, None), (1, 3)),
        ({**SLURM, "RANK": "0", "WORLD_SIZE": "2"}, (None, None), (0, 2)),
        # The script of sbatch itself, outside srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (None, None), (None, None)),
    ],
)
def test_ranks_are_those_given_or_the_environments(
    environment: dict[str, str],
    given: tuple[int | None, int | None],
    expected: tuple[int | None, int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_here(*given) == expected


@pytest.mark.parametrize("given", [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_ranks_out_of_their_range_are_refused(given: tuple[int | None, int | None]) -> None:
    rank, world = given
    with pytest.raises(ValueError, match=f"got rank={rank}, world={world}"):
        rank_here(rank, world)


def test_a_rank_of_the_environment_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"RANK='one' and WORLD_SIZE='2'.*--rank and --world"):
        rank_here(None, None)
