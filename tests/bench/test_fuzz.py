"""A quick pass over every target, and that what is wrong would be seen."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")

from bench.fuzz import __main__ as command
from bench.fuzz import folders, text
from bench.fuzz.counts import revision
from bench.fuzz.engine import TARGETS, Last, Session, execute
from bench.fuzz.properties import BrokenError, Hang, Target, in_time, refused_as
from pdrec_fast.data.readers import read_file
from pdrec_fast.errors import DataError


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_breaks(name, tmp_path):
    executions = 30 * TARGETS[name].weight
    session = Session(TARGETS[name], tmp_path)
    session.run_seeded(seed=7, executions=executions)
    assert session.executions >= executions
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
    assert re.search(r"settings +3 executions.* 0 broken", capsys.readouterr().out)
    (tmp_path / "input").write_bytes(b"pdrec.lr=0.1")
    assert command.main(["--only", "settings", "--input", str(tmp_path / "input")]) == 0
    assert "nothing is broken" in capsys.readouterr().out


def _child(found=None, executions=5):
    """Stands for the process of a target: it ends with findings, or by itself if None is given."""

    def run(arguments, **_):
        turn = json.loads(arguments[-1])
        turns.append(turn)
        Last(Path(turn["last"])).keep(b"culprit", executions)
        if found is not None:
            done = min(executions, turn["executions"] or executions)
            told = {"executions": done, "by": "seeded", "broken": found}
            Path(turn["told"]).write_text(json.dumps(told))
        return subprocess.CompletedProcess(arguments, -11)

    turns = []
    run.turns = turns
    return run


def test_what_broke_is_kept_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", _child({str(tmp_path / "csv-1"): "lost"}))
    assert command.main(["--only", "csv", "--out", str(tmp_path)]) == 1
    assert "csv-1: lost" in capsys.readouterr().out


def test_a_process_that_ends_by_itself_is_told_with_its_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", _child())
    arguments = ["--only", "csv", "--out", str(tmp_path), "--executions", "100"]
    assert command.main([*arguments, "--jobs", "2", "--seconds", "0.2"]) == 1
    shown = capsys.readouterr().out
    assert "ended with status -11" in shown
    assert (tmp_path / "csv-crash").read_bytes() == b"culprit"
    assert "csv" in json.loads((tmp_path / "counts.json").read_text())[revision()]


def test_a_campaign_is_shared_out_and_goes_on(tmp_path, monkeypatch, capsys):
    child = _child({}, executions=30)
    monkeypatch.setattr(subprocess, "run", child)
    arguments = ["--only", "csv", "study", "--out", str(tmp_path), "--jobs", "2"]
    assert command.main([*arguments, "--executions", "50"]) == 0  # 4 : 1
    done = [(turn["name"], turn["executions"]) for turn in child.turns]
    assert sorted(done) == [("csv", 10), ("csv", 40), ("study", 10)]
    assert len({turn["seed"] for turn in child.turns}) == 3
    assert command.main([*arguments, "--executions", "100"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"in all +100 executions +0 broken", shown)
    monkeypatch.setattr("bench.fuzz.counts.revision", lambda: "other")
    assert command.main([*arguments, "--executions", "50"]) == 0
    assert "code other; with other code 100" in capsys.readouterr().out


def test_a_target_that_does_not_start_ends_its_campaign(tmp_path, monkeypatch, capsys):
    child = _child(executions=0)
    monkeypatch.setattr(subprocess, "run", child)
    assert command.main(["--only", "csv", "--out", str(tmp_path), "--executions", "9"]) == 1
    assert len(child.turns) == 1


def test_dear_checks_are_for_a_share_and_the_folder_is_empty_each_time(tmp_path):
    seen = []

    def run(content, folder):
        seen.append(sorted(folder.iterdir()))
        (folder / "a").mkdir()
        (folder / "a" / "b").write_bytes(content)

    def also(content, folder):
        assert (folder / "a" / "b").read_bytes() == content
        raise BrokenError(f"{folder}/a")

    session = Session(Target(run, lambda: (b"x",), also=also), tmp_path, whole_every=4)
    session.run_seeded(1, executions=4)
    assert seen == [[]] * 4
    assert session.broken == {"FOLDER/a": b"x"}
    session = Session(Target(run, lambda: (b"x",), also=also), tmp_path, whole_every=4)
    session.executions = 1
    session.run(b"y")
    assert session.broken == {}


@pytest.mark.parametrize("change", [{"n_records": 0}, {}])
def test_a_prepared_store_that_differs_is_seen(monkeypatch, change):
    real = folders.prepare

    def prepare(path, store, **options):
        path.write_bytes(path.read_bytes().replace(b"20", b"21"))
        card = real(path, store, **options)
        path.write_bytes(path.read_bytes().replace(b"21", b"20"))
        return card | {"parts": [part | change for part in card["parts"]]}

    monkeypatch.setattr(folders, "prepare", prepare)
    message = execute(TARGETS["prepare"], TARGETS["prepare"].seeds()[0])
    assert ("records, 0 in the card" if change else "prepared") in message


def test_other_rows_of_an_index_and_a_lost_part_are_seen(monkeypatch):
    monkeypatch.setattr(
        folders.ItemIndex, "load", lambda folder, matrix: folders.ItemIndex.build(-matrix)
    )
    assert "found" in execute(TARGETS["index"], TARGETS["index"].seeds()[0])
    monkeypatch.setattr(
        folders,
        "read_file",
        lambda path, names: read_file(path / "part-0.csv" if path.is_dir() else path, names),
    )
    assert "3 records, not 6" in execute(TARGETS["folder"], TARGETS["folder"].seeds()[0])
