"""The jobs of a day."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import uvicorn

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.encoders import ENCODERS

USERS = 120  # of a day, a sample of all
# Then the samples come again: libraries keep something for every size that they meet, and what they
# have kept by then is not what a leak adds (docs/reliability.md).
DAYS = 64
_PDREC = pf.PDRecConfig(epochs=2, select_by="full", modules=("hbr", "dpa", "nns", "fusion"))
_DIFFUSION = pf.DiffusionConfig(epochs=2, hidden=(16,), select_by="full")
_SETTINGS = {
    "diffusion.epochs": 2,
    "diffusion.hidden": 8,
    "pdrec.epochs": 2,
    "encoder.width": 16,
    "n_draws": 16,
}


@dataclass
class Day:
    """A round: its data, where it writes, and what its jobs have made for each other."""

    number: int
    data: pf.Interactions
    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> pf.Split:
        if "split" not in self.made:
            self.made["split"] = pf.leave_one_out(self.data)
        return self.made["split"]

    @property
    def model(self) -> pf.PDRec:
        return self.made["model"]


def data_of_day(everything: pf.Interactions, number: int) -> pf.Interactions:
    """The records of some users, others for ``DAYS`` days: other sizes, other items."""
    chosen = np.random.default_rng(number % DAYS).permutation(everything.n_users)[:USERS]
    mine = np.isin(everything.record_users, chosen)
    users = everything.user_ids[everything.record_users[mine]]
    items = everything.item_ids[everything.items[mine]]
    times = None if everything.timestamps is None else everything.timestamps[mine]
    return pf.Interactions.from_arrays(users, items, times)


def read(day: Day) -> None:
    """The day's records, to a file and back; and a file that is refused."""
    data, path = day.data, day.folder / "data.csv"
    columns = [data.user_ids[data.record_users], data.item_ids[data.items]]
    columns.append(np.zeros(data.n_records) if data.timestamps is None else data.timestamps)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = ["user_id,item_id,timestamp", *(f"{u},{i},{t:.0f}" for u, i, t in rows)]
    path.write_text("\n".join(lines) + "\n")
    assert pf.Interactions.from_file(path).n_records == data.n_records
    wrong = day.folder / "wrong.csv"
    wrong.write_text("\n".join([*lines, "7,8,yesterday"]) + "\n")
    with contextlib.suppress(pf.DataError):
        pf.Interactions.from_file(wrong)
        raise AssertionError("a damaged file was read")


def fit_diffusion(day: Day) -> None:
    """With a checkpoint; ended by a callback after its first epoch, and continued."""

    def end(history: pf.History) -> None:
        raise InterruptedError

    checkpoint = day.folder / "diffusion.checkpoint"
    model = pf.DiffRec(_DIFFUSION, seed=day.number)
    with contextlib.suppress(InterruptedError):
        model.fit(day.split, checkpoint=checkpoint, progress=False, on_epoch_end=end)
    log = pf.CSVLogger(day.folder / "epochs.csv")
    day.made["diffusion"] = model.fit(
        day.split, checkpoint=checkpoint, progress=False, callbacks=[log]
    )


def infer_preferences(day: Day) -> None:
    """In memory, and in parts of a folder that is mapped."""
    given: dict[str, Any] = {"n_draws": 32, "top_m": 10, "progress": False}
    day.made["preferences"] = pf.Preferences.infer(day.made["diffusion"], day.split.train, **given)
    pf.Preferences.infer_parts(
        day.made["diffusion"], day.split.train, day.folder / "parts", part_size=64, **given
    )
    mapped = pf.Preferences.open(day.folder / "parts", verify=True)
    assert mapped.n_users == day.data.n_users


def fit_encoder(day: Day) -> None:
    """Another one every day, guided in every way."""
    encoder = sorted(ENCODERS)[day.number % len(ENCODERS)]
    options = {"width": 16, "max_length": 20}
    model = pf.PDRec(encoder, _PDREC, encoder_options=options, seed=day.number)
    guides = {"diffusion": day.made["diffusion"], "linear": pf.LinearDenoiser().fit(day.split)}
    model.fit(day.split, day.made["preferences"], guides=guides, progress=False)
    day.made["model"] = model


def evaluate(day: Day) -> None:
    for scorer in (day.model, day.made["diffusion"], pf.Popularity().fit(day.split)):
        found = pf.evaluate(scorer, day.split)
        assert 0 <= found["full"]["test"]["ndcg@10"] <= 1


def save_and_load(day: Day) -> None:
    for model in (day.model, day.made["diffusion"]):
        model.save(day.folder / "saved")
        loaded = type(model).load(day.folder / "saved")
        assert loaded.fingerprint() == model.fingerprint()


def recommend(day: Day) -> None:
    """Arrays, frames of three kinds, files of two, one person, and who is refused."""
    found = day.model.recommend(k=5)
    assert found.items.shape == (day.data.n_users, 5)
    for kind in ("pandas", "polars", "arrow"):
        assert len(found.to_frame(kind)) > 0
    for name in ("all.csv", "all.parquet"):
        assert day.model.recommend_to_file(day.folder / name, k=5, part_size=50, progress=False)
    history, times = day.data.item_ids[:3].tolist(), [1.0, 2.0, 3.0]
    assert len(day.model.recommend(history=history, times=times, k=5).items[0]) == 5
    with contextlib.suppress(pf.DataError):
        day.model.recommend(["nobody"])
        raise AssertionError("an unknown user was recommended something")


def similar_items(day: Day) -> None:
    known = day.data.item_ids[day.model.trained_items][:20]
    assert day.model.similar_items(known, 3)[0].shape == (20, 3)
    pairs = np.stack([day.data.user_ids[:20], np.resize(known, 20)], axis=1)
    assert np.isfinite(day.model.scores_for(pairs)).all()


def threads(day: Day) -> None:
    """New threads ask the model at once."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda user: day.model.recommend(user, 3), day.data.user_ids[:12]))
    assert len(found) == 12


def run_and_update(day: Day) -> None:
    """A run in a directory, and its update with a day's more records."""
    config = pf.with_settings(pf.RunConfig.from_preset("default"), _SETTINGS)
    users = day.data.of_users(range(day.data.n_users * 9 // 10))
    pf.run(users, config, out=day.folder / "monday", progress=False)
    few = {"diffusion.epochs": 1, "pdrec.epochs": 1}
    result = pf.update(
        day.folder / "monday",
        day.data,
        out=day.folder / "tuesday",
        settings=few,
        progress=False,
    )
    assert result.model is not None


def command_line(day: Day) -> None:
    settings = [word for key, value in _SETTINGS.items() for word in ("--set", f"{key}={value}")]
    run, data = str(day.folder / "run"), str(day.folder / "data.csv")
    _command("run", "--data", data, "--out", run, "--quiet", *settings)
    _command("recommend", "--run", run, "--users", str(day.data.user_ids[0]))
    _command("evaluate", "--run", run)
    _command("recommend", "--run", run, "--users", "nobody", status=1)


def _command(*words: str, status: int = 0) -> None:
    before = sys.argv
    sys.argv = ["pdrec-fast", *words]
    try:
        with _silence():
            cli.main()
        ended = 0
    except SystemExit as end:
        ended = int(end.code or 0)
    finally:
        sys.argv = before
    assert ended == status, f"pdrec-fast {' '.join(words)} ended with {ended}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(_nowhere()), contextlib.redirect_stderr(_nowhere()):
        yield


@lru_cache(maxsize=1)
def _nowhere() -> Any:
    """Kept open: the command's log holds on to the stderr that it finds first."""
    return open(os.devnull, "w")


def serve(day: Day) -> None:
    """examples/serve.py in a thread: a few requests, one of them refused, and its end."""
    app = example().make_app(day.model, batch_size=8, wait_ms=1)
    given: dict[str, Any] = {"log_level": "critical", "limit_concurrency": 64}
    server = uvicorn.Server(uvicorn.Config(app, http=example().Connection, **given))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            with ThreadPoolExecutor(4) as pool:
                statuses = list(pool.map(lambda n: _post(port, day, n), range(16)))
        finally:
            server.should_exit = True
            thread.join()
    assert statuses == [200] * 15 + [422], statuses


def _post(port: int, day: Day, number: int) -> int:
    history = day.data.item_ids[number : number + 4].tolist() if number < 15 else []
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"history": history, "times": list(range(len(history))), "k": 3})
    connection.request("POST", "/recommend", body, {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


@lru_cache(maxsize=1)
def example() -> ModuleType:
    """examples/serve.py, which is no package's."""
    path = Path(__file__).resolve().parents[2] / "examples" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["serve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(day: Day) -> None:
    """By the command in a process of its own, since torch's tracing leaves half a MiB for each
    export; and an index of the items here."""
    out = day.folder / "exported"
    command = [sys.executable, "-m", "pdrec_fast", "export", "--run", str(day.folder / "run")]
    subprocess.run([*command, "--out", str(out), "-k", "5"], check=True, capture_output=True)
    matrix = np.load(out / "items.npy")
    index = pf.ItemIndex.build(matrix, kind="hnsw", k=3)
    assert index.search(matrix[:2], k=3)[0].shape == (2, 3)


@dataclass(frozen=True)
class Job:
    """Something that a day does, every so many days."""

    do: Callable[[Day], None]
    every: int = 1

    @property
    def name(self) -> str:
        return self.do.__name__


JOBS = (
    Job(read),
    Job(fit_diffusion),
    Job(infer_preferences),
    Job(fit_encoder),
    Job(evaluate),
    Job(save_and_load),
    Job(recommend),
    Job(similar_items),
    Job(threads),
    Job(run_and_update, every=2),
    Job(command_line, every=2),
    Job(serve),
    Job(export, every=20),
)
