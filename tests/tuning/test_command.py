"""``pdrec-fast tune`` from the command line to the preset that it makes."""

import csv
import json
import shlex

import pytest
from typer.testing import CliRunner

from pdrec_fast import cli

pytest.importorskip("optuna", reason="searching needs the extra 'tune'")

FAST = ("--set=encoder.width=8", "--set=n_draws=16", "--quiet", "--threads=1")
OF_DIFFUSION = ("--set=diffusion.hidden=16", "--set=diffusion.epochs=1")


@pytest.fixture(scope="module")
def data_file(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clicks.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "thing", "timestamp"])
        for user, item, when in zip(data.record_users, data.items, data.timestamps, strict=True):
            writer.writerow([data.user_ids[user], data.item_ids[item], when])
    return path


def command(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tune(data_file, out, *options):
    return command(
        "tune", "--data", data_file, "--item-column", "thing", "--out", out, "--trials", 2,
        "--epochs", 1, *FAST, *options,
    )  # fmt: skip


@pytest.mark.parametrize("modules", ["none", "hbr,dpa,nns"])
def test_the_printed_run_reaches_what_the_search_found(data_file, tmp_path, modules):
    out, file = tmp_path / "search", tmp_path / "mine.json"
    result = tune(
        data_file, out, "--modules", modules, "--into", file, *(
            OF_DIFFUSION if modules != "none" else ()
        ),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    best = json.loads((out / "best.json").read_text())
    assert best["run"] in result.stdout
    assert f"{best['before']:.4f} with the preset, {best['after']:.4f} with trial" in result.stdout
    words = shlex.split(best["run"])
    assert words[:2] == ["pdrec-fast", "run"]
    assert ("--diffusion" in words) == (modules != "none")
    quick = ("--set", "pdrec.epochs=1", "--quiet", "--threads", 1)
    ran = command(*words[1:], *quick)
    assert ran.exit_code == 0, ran.output
    metrics = json.loads((out / "best" / "metrics.json").read_text())
    selected = metrics["config"]["pdrec"]["select_by"]
    assert best["metric"] == f"validation NDCG@10 ({selected})"
    assert metrics["protocols"][selected]["valid"]["ndcg@10"] == best["after"]
    # The file is a preset: it gives what the command sets one by one.
    assert f"merged into {file}" in result.stdout
    diffusion = ("--diffusion", out) if modules != "none" else ()
    named = command(
        "run", "--data", data_file, "--item-column", "thing", "--preset", file, "--modules",
        modules, "--out", tmp_path / "named", *diffusion, *quick,
    )  # fmt: skip
    assert named.exit_code == 0, named.output
    again = json.loads((tmp_path / "named" / "metrics.json").read_text())
    assert again["config"] == metrics["config"]
    assert again["protocols"] == metrics["protocols"]


def test_the_file_names_no_place_on_this_machine(data_file, tmp_path):
    file = tmp_path / "mine.json"
    first = "pdrec.lr=0.01 pdrec.loss=softmax"
    tune(data_file, tmp_path / "search", "--modules", "none", "--into", file, "--try", first)
    assert str(tmp_path) not in file.read_text()
    found = json.loads(file.read_text())["encoders"]["sasrec"]["plain"]["search"]["command"]
    assert found == (
        "pdrec-fast tune --data clicks.csv --item-column thing --preset default --encoder sasrec "
        "--modules none --seed 0 --trials 2 --epochs 1 --set encoder.width=8 --set n_draws=16 "
        """--try 'pdrec.lr=0.01 pdrec.loss="softmax"'"""
    )


def test_a_finished_search_can_be_merged_later(data_file, tmp_path):
    out, file = tmp_path / "search", tmp_path / "mine.json"
    tune(data_file, out, "--modules", "none")
    before = (out / "trials.csv").stat().st_mtime_ns
    assert not file.exists()
    tune(data_file, out, "--modules", "none", "--into", file)
    assert (out / "trials.csv").stat().st_mtime_ns == before
    assert "sasrec" in json.loads(file.read_text())["encoders"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--set", "pdrec.speed=9"], ValueError, "no such setting"),
        (["--try", "pdrec.lr=0.01 top_m"], ValueError, "write KEY=VALUE"),
        (["--try", "pdrec.hbr_decay=1"], ValueError, "no such setting"),
        (["--into", "notes.txt"], ValueError, "NAME.json"),
        (["--modules", "dpo"], ValueError, "dpo"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(
    data_file, tmp_path, options, error, message
):
    with pytest.raises(error, match=message):
        tune(data_file, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_wrong_names_are_told_with_the_choices(data_file, tmp_path):
    for options in (["--preset", "toys"], ["--encoder", "diffusion"], ["--trials", "0"]):
        result = tune(data_file, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert options[0] in result.output
