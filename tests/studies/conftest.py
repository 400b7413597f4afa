"""A tiny data set, settings that train in no time, and jobs without a process of their own."""

import csv
import json
import traceback
from pathlib import Path

import pytest

import pdrec_fast as pf
from pdrec_fast.studies import job_process, study
from pdrec_fast.studies.jobs import Job


def write_file(path, data, keep=lambda item: True):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["user_id:token", "item_id:token", "timestamp:float"])
        for user, item, when in zip(data.record_users, data.items, data.timestamps, strict=True):
            if keep(item):
                writer.writerow([data.user_ids[user], data.item_ids[item], when])
    return path


@pytest.fixture(scope="session")
def tiny():
    """Settings of runs that take no time."""
    return (
        "diffusion.epochs=2",
        "diffusion.hidden=16",
        "pdrec.epochs=2",
        "encoder.width=8",
        "n_draws=16",
        "top_m=5",
    )


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A synthetic file that is called like the paper's Toy."""
    data = pf.synthetic(n_users=60, n_items=150, seed=3)
    return write_file(tmp_path_factory.mktemp("data") / "toy.inter", data)


@pytest.fixture(scope="session")
def two_domains(tmp_path_factory):
    """(target, source): the even and the odd items of one set."""
    data, folder = pf.synthetic(n_users=60, n_items=500, seed=4), tmp_path_factory.mktemp("pair")
    return (
        write_file(folder / "game.inter", data, lambda item: item % 2 == 0),
        write_file(folder / "toy.inter", data, lambda item: item % 2 == 1),
    )


class InProcess:
    """Stands for ``run_tasks``: does tasks here, which saves importing torch for each.

    Attributes:
        did: names of the jobs done.
        breaks: names of jobs that fail.
    """

    def __init__(self):
        self.did, self.breaks = [], ()

    def __call__(self, tasks, n_parallel, *, done=0, progress=True):
        failed, waiting = {}, list(tasks)
        for task in waiting:
            assert not [later for later in waiting if later.name == task.needs] or (
                task.needs in [*self.did, *failed]
            ), f"{task.name} comes before {task.needs}"
            spec = json.loads(task.command[-1])
            self.did.append(task.name)
            try:
                if task.name in self.breaks:
                    raise RuntimeError("broken on purpose")
                job_process.do_job(
                    Path(spec["out"]),
                    Job(**spec["job"]),
                    job_process.Dataset(**spec["data"]),
                    spec["settings"],
                )
            except Exception as error:
                traceback.print_exc()
                failed[task.name] = str(error)
        return failed


@pytest.fixture
def in_process(monkeypatch):
    fake = InProcess()
    monkeypatch.setattr(study, "run_tasks", fake)
    return fake
