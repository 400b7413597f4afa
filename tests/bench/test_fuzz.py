"""A quick pass over every target, and that what is wrong would be seen."""

import json
import subprocess
import time

import pytest

pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")

from bench.fuzz import __main__ as command
from bench.fuzz import text
from bench.fuzz.engine import TARGETS, Session, execute
from bench.fuzz.properties import BrokenError, Hang, Target, in_time, refused_as
from pdrec_fast.data.readers import read_file
from pdrec_fast.errors import DataError


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_breaks(name):
    session = Session(TARGETS[name])
    session.run_seeded(seed=7, executions=120)
    assert session.executions >= 120
    assert session.broken == {}


def test_the_same_seed_gives_the_same_inputs():
    inputs = [[], []]
    for found in inputs:
        Session(
            Target(lambda content, folder, to=found: to.append(content), lambda: (b"ab",))
        ).run_seeded(3, 50)
    assert inputs[0] == inputs[1]
    assert len(set(inputs[0])) > 30


def test_a_lost_record_is_seen(monkeypatch):
    def lossy(path, names):
        return read_file(path, names)[:-1]

    monkeypatch.setattr(text, "read_file", lossy)
    content = TARGETS["jsonl"].seeds()[0]
    assert execute(TARGETS["jsonl"], content) == "2 lines, 1 records"
    assert "Parquet against csv: users" in execute(TARGETS["csv"], TARGETS["csv"].seeds()[0])


def test_readers_that_differ_are_seen(monkeypatch):
    monkeypatch.setattr(
        text, "read_plain_text", lambda source, names: read_file(source.path, names)[::-1]
    )
    assert "pyarrow against csv: users" in execute(TARGETS["csv"], TARGETS["csv"].seeds()[0])


@pytest.mark.parametrize(
    "error", [KeyError("a"), DataError(""), ValueError("of another kind"), RecursionError()]
)
def test_other_errors_are_seen(error):
    with pytest.raises(BrokenError), refused_as(DataError):
        raise error


def test_what_takes_too_long_is_seen(monkeypatch):
    ticks = iter([0.0, 1.5, 0.0, 1.5])
    monkeypatch.setattr(time, "process_time", lambda: next(ticks))
    with pytest.raises(BrokenError, match=r"1\.5 s for 10 bytes"), in_time(10):
        pass
    with in_time(2048):
        pass


def test_what_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr("bench.fuzz.properties.BY_THE_CLOCK", 0.05)
    with pytest.raises(Hang), in_time(1):
        time.sleep(30)


def test_a_run_of_one_target_and_one_input(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--only", "settings", "--seconds", "0", "--seeded", "--out", str(out)]
    assert command.main(arguments) == 0
    assert "3 executions seeded    0 broken" in capsys.readouterr().out
    (tmp_path / "input").write_bytes(b"pdrec.lr=0.1")
    assert command.main(["--only", "settings", "--input", str(tmp_path / "input")]) == 0
    assert "nothing is broken" in capsys.readouterr().out


@pytest.mark.parametrize("ends", ["with findings", "by itself"])
def test_what_broke_is_kept_and_told(tmp_path, monkeypatch, capsys, ends):
    def run(arguments, **_):
        (tmp_path / "csv.last").write_bytes(b"culprit")
        if ends == "with findings":
            told = {"executions": 5, "by": "seeded", "broken": {str(tmp_path / "csv-1"): "lost"}}
            (tmp_path / "csv.json").write_text(json.dumps(told))
        return subprocess.CompletedProcess(arguments, -11)

    monkeypatch.setattr(subprocess, "run", run)
    assert command.main(["--only", "csv", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    if ends == "with findings":
        assert "csv-1: lost" in shown
    else:
        assert "ended with status -11" in shown
        assert (tmp_path / "csv-crash").read_bytes() == b"culprit"
