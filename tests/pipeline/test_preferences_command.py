"""``pdrec-fast preferences``: what the run itself inferred, by one process or by ranks."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pdrec_fast as pf
from tests import test_pipeline
from tests.test_pipeline import fast_config


def command(*arguments, **options):
    """(status, what it printed, what it said beside that)."""
    done = test_pipeline.command(*arguments, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run_dir(data, tmp_path_factory):
    """A run whose encoder was trained with preferences."""
    out = tmp_path_factory.mktemp("guided") / "run"
    pf.run(data, fast_config(("dpa", "nns")), out=out, progress=False)
    return out


def test_it_gives_what_the_run_inferred(run_dir, tmp_path):
    status, out, err = command("preferences", "--run", run_dir, "--out", tmp_path / "parts")
    assert status == 0, err
    assert out == f"written to {tmp_path / 'parts'}\n"
    expected = pf.Preferences.load(run_dir / "preferences")
    assert pf.Preferences.load(tmp_path / "parts").fingerprint() == expected.fingerprint()


def test_ranks_of_the_environment_share_it_and_the_first_speaks(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("pdrec_fast.preferences.preferences.users_per_block", lambda *_: 16)
    arguments = "preferences", "--run", run_dir, "--out", tmp_path / "parts", "--part-size", 20
    said = {}
    for rank in ("1", "0", "2"):
        ranks = {"RANK": rank, "WORLD_SIZE": "3"}
        status, said[rank], err = command(*arguments, "--quiet", environment=ranks)
        assert (status, err) == (0, "")
    assert said["1"] == said["2"] == ""
    assert said["0"] == (
        f"rank 0 of 3 has done its parts; {tmp_path / 'parts'} is complete when the others have "
        "done theirs\n"
    )
    found = pf.Preferences.load(tmp_path / "parts")
    expected = pf.Preferences.load(run_dir / "preferences")
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    np.testing.assert_array_equal(found.top_items, expected.top_items)


def test_recommendations_by_ranks(old_run, tmp_path):
    arguments = "recommend", "--run", old_run, "--all", "--out", tmp_path / "all.csv", "--quiet"
    arguments += "--part-size", 20
    status, _, err = command(*arguments)
    assert status == 0, err
    alone = (tmp_path / "all.csv").read_bytes()
    (tmp_path / "all.csv").unlink()
    for rank in (1, 2, 0):
        ranks = "--rank", rank, "--world", 3
        status, out, err = command(*arguments, *ranks)
        assert status == 0, err
        assert out == ("" if rank else f"written to {tmp_path / 'all.csv'}\n")
    assert (tmp_path / "all.csv").read_bytes() == alone


def test_choices_of_its_own_and_a_guide(data, tmp_path):
    config = replace(fast_config(("dpa", "nns")), guide="sasrec", final=True)
    done = pf.run(data, config, out=tmp_path / "run", progress=False)
    arguments = "preferences", "--run", tmp_path / "run", "--quiet"
    assert command(*arguments, "--out", tmp_path / "same")[0] == 0
    assert done.selected.preferences.fingerprint() == (
        pf.Preferences.load(tmp_path / "same").fingerprint()
    )
    chosen = {"top_m": 3, "omega_m": 0.25, "n_draws": 9, "seed": 5}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    assert command(*arguments, "--out", tmp_path / "other", *words)[0] == 0
    expected = pf.Preferences.infer(done.selected.guide, done.split.train, **chosen, progress=False)
    found = pf.Preferences.load(tmp_path / "other")
    assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("preferences", "--run", "{run}", "--out", "{run}"), "exists and holds no such job"),
        (("preferences", "--run", "nowhere", "--out", "parts"), "nowhere"),
        (("preferences", "--run", "{run}", "--out", "p", "--rank", "2"), "rank=2, world=None"),
        (("recommend", "--run", "{run}", "--all", "--rank", "0", "--world", "2"), "name a file"),
    ],
)
def test_what_is_wrong_ends_with_one_line(arguments, text, old_run, tmp_path):
    words = [word.format(run=old_run) for word in arguments]
    status, _, err = command(*words, cwd=tmp_path)
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert text in err


def test_a_run_without_the_model_names_what_to_do(old_run, old_data, tmp_path):
    diffusion = pf.DiffRec.load(old_run / "diffusion")
    pf.run(old_data, fast_config(), out=tmp_path / "run", diffusion=diffusion, progress=False)
    status, _, err = command("preferences", "--run", tmp_path / "run", "--out", tmp_path / "parts")
    assert status == 1
    assert "diffusion: this run trained no such model; name the run that did" in err
    assert not (tmp_path / "parts").exists()


def test_docs_workers(run_dir, data, write_csv, tmp_path, monkeypatch):
    """The page's plain commands and its Python, as they are printed."""
    pytest.importorskip("pyarrow")
    page = (Path(__file__).resolve().parents[2] / "docs" / "workers.md").read_text()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "clicks").symlink_to(run_dir)
    (tmp_path / "clicks.csv").symlink_to(write_csv(data))
    monkeypatch.chdir(tmp_path)
    short = ("--set=pdrec.epochs=1",)
    lines = re.findall(r"^    (?:.* )?pdrec[-_]fast (.*)$", page, flags=re.MULTILINE)
    assert len(lines) == 6
    array = {"$SLURM_ARRAY_TASK_ID": "0", "$SLURM_ARRAY_TASK_COUNT": "1"}
    for line in lines:
        words = [array.get(word, word) for word in shlex.split(line)]
        status, _, err = command(*words, "--quiet", *(short if words[0] == "run" else ()))
        assert (status, err) == (0, "")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names = {}
    exec(block, names)
    assert names["encoder"].history.epochs == 1
    expected = pf.Preferences.infer(names["model"], names["split"].train, progress=False)
    assert names["preferences"].fingerprint() == expected.fingerprint()
