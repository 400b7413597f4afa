"""Whole studies of a tiny data set."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.errors import CheckpointError
from pdrec_fast.preferences import hbr_weights
from pdrec_fast.studies import collect, run_study, write_report
from pdrec_fast.studies.schema import read_table

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {
    "results": "data,preset,model,modules,guide,seed,protocol,split,metric,value,seconds",
    "comparisons": "data,preset,model,modules,guide,baseline,protocol,split,metric,seeds,users,"
    "mean,sd,baseline_mean,baseline_sd,gain_percent,p_seeds,p_users",
    "curves": "data,preset,model,modules,guide,seed,epoch,seconds,loss,valid",
    "popularity": "data,preset,model,modules,guide,seed,protocol,metric,records_from,records_to,"
    "cases,value",
    "ranks": "data,preset,seed,known,rank_from,rank_to,cases",
    "hbr": "data,preset,seed,user,position,item,timestamp,preference,rank,weight",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Directory of the study that most tests look at."""
    return tmp_path_factory.mktemp("studies") / "out"


@pytest.fixture
def main_study(shared, toy, tiny, in_process):
    """``main`` for two seeds, done once."""
    if not shared.exists():
        study = {"presets": ["default"], "encoders": ["sasrec"], "seeds": 2, "settings": tiny}
        assert run_study("main", [toy], out=shared, command="the command", **study) == {}
        assert len(in_process.did) == 10
    return shared


def again(out, toy, tiny, kind="main", **changes):
    options = {"presets": ["default"], "encoders": ["sasrec"], "seeds": 2, "settings": tiny}
    return run_study(kind, [toy], out=out, **(options | changes))


def times(out):
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/metrics.json")}


def test_csv_columns_are_the_contract(main_study):
    for name, columns in COLUMNS.items():
        assert (main_study / f"{name}.csv").read_text().splitlines()[0] == columns


def test_study_json_is_the_contract(main_study, toy, tiny):
    study = json.loads((main_study / "study.json").read_text())
    data = pf.Interactions.from_file(toy)
    counts = {"users": 60, "items": data.n_items, "records": data.n_records}
    found = study["data"][0]
    assert found.pop("fingerprint") == data.fingerprint()
    assert study["data"] == [{"name": "toy", "preset": "default", **counts}]
    assert (study["encoders"], study["settings"]) == (["sasrec"], list(tiny))
    assert (study["version"], study["command"]) == (pf.__version__, "the command")
    assert "cores" in study["machine"]
    finished = datetime.fromisoformat(study["finished"])
    assert finished.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - finished) < timedelta(hours=1)


def test_results_are_those_of_the_runs(main_study):
    results = read_table(main_study, "results")
    keys = ["model", "modules", "guide", "seed", "protocol", "split", "metric"]
    assert not results.duplicated(keys).any()
    assert len(results) == 5 * 2 * 2 * 2 * 12
    assert (results[["data", "preset"]].drop_duplicates().to_numpy() == [["toy", "default"]]).all()
    found = results.set_index(keys)
    for name, key, stage in (
        ("toy-t-diffrec-1", ("t-diffrec", "none", "", 1), "diffusion"),
        ("toy-sasrec-0", ("sasrec", "none", "", 0), "encoder"),
        ("toy-sasrec+hbr+nns+dpa-0", ("sasrec", "hbr+nns+dpa", "ti-diffrec", 0), "encoder"),
    ):
        metrics = json.loads((main_study / "runs" / name / "metrics.json").read_text())
        row = found.loc[(*key, "full", "test", "ndcg@10")]
        assert row["value"] == metrics["protocols"]["full"]["test"]["ndcg@10"]
        assert row["seconds"] == metrics["seconds"][stage] > 0


def test_the_guided_run_uses_the_model_of_its_seed(main_study):
    runs = main_study / "runs"
    for seed in (0, 1):
        guide = pf.DiffRec.load(runs / f"toy-ti-diffrec-{seed}" / "diffusion")
        run = json.loads((runs / f"toy-sasrec+hbr+nns+dpa-{seed}" / "run.json").read_text())
        assert run["diffusion"] == guide.fingerprint()
        assert guide.config.weighting == "interval"
        assert guide.config.seed == seed


def test_curves_have_time_loss_and_validation(main_study):
    curves = pd.read_csv(main_study / "curves.csv", keep_default_na=False)
    one = curves[(curves["model"] == "sasrec") & (curves["modules"] == "none")]
    one = one[one["seed"] == 0]
    history = json.loads((main_study / "runs" / "toy-sasrec-0" / "metrics.json").read_text())
    history = history["history"]["encoder"]
    assert one["epoch"].tolist() == [1, 2]
    assert one["loss"].tolist() == pytest.approx(history["losses"], rel=1e-4)
    assert one["valid"].astype(float).tolist() == pytest.approx(
        [*history["validations"].values()], rel=1e-4
    )
    assert one["seconds"].is_monotonic_increasing


def test_epochs_without_validation_are_empty(toy, tiny, tmp_path, in_process):
    again(tmp_path / "out", toy, [*tiny, "pdrec.eval_every=2"], seeds=1)
    curves = pd.read_csv(tmp_path / "out" / "curves.csv", keep_default_na=False)
    assert (curves["valid"][curves["model"] == "sasrec"] == "").tolist() == [True, False] * 2


def test_ranks_count_every_case_once(main_study, toy):
    ranks = pd.read_csv(main_study / "ranks.csv")
    split = pf.leave_one_out(pf.Interactions.from_file(toy))
    known = np.isin(split.test.targets, split.train.items)
    for seed in (0, 1):
        of_seed = ranks[ranks["seed"] == seed]
        assert of_seed[of_seed["known"] == 1]["cases"].sum() == known.sum()
        assert of_seed[of_seed["known"] == 0]["cases"].sum() == (~known).sum()
        bins = of_seed[of_seed["known"] == 1]
        assert bins["rank_from"].tolist() == [1, 2, 3, 6, 11, 21, 51, 101]
        assert bins["rank_to"].tolist() == [1, 2, 5, 10, 20, 50, 100, 200]
    guide = json.loads((main_study / "runs" / "toy-ti-diffrec-0" / "metrics.json").read_text())
    top_10 = ranks[(ranks["seed"] == 0) & (ranks["rank_to"] <= 10)]["cases"].sum()
    hits = guide["protocols"]["full"]["test"]["hr@10"] * len(split.test)
    assert top_10 == pytest.approx(hits)


def test_targets_apart_by_popularity_make_up_the_metric(main_study, toy):
    rows = pd.read_csv(main_study / "popularity.csv", keep_default_na=False)
    results = pd.read_csv(main_study / "results.csv", keep_default_na=False)
    keys = ["model", "modules", "seed", "protocol", "metric"]
    whole = results[results["split"] == "test"].set_index(keys)["value"]
    for key, of_run in rows.groupby(keys):
        mean = np.average(of_run["value"], weights=of_run["cases"])
        assert mean == pytest.approx(whole.loc[key])
    assert set(rows["metric"]) == {"ndcg@10"}
    split = pf.leave_one_out(pf.Interactions.from_file(toy))
    records = np.bincount(split.train.items, minlength=split.train.n_items)
    records = records[split.test.targets]
    one = rows[(rows["model"] == "sasrec") & (rows["seed"] == 0) & (rows["protocol"] == "full")]
    one = one[one["modules"] == "none"]
    assert one["records_from"].isin([0, 1, 2, 5, 10, 20, 50, 100]).all()
    for first, last, cases in zip(
        one["records_from"], one["records_to"], one["cases"], strict=True
    ):
        assert cases == ((records >= first) & (records <= last)).sum() > 0
    assert one["cases"].sum() == len(records)


def test_hbr_weights_are_those_that_train(main_study, toy):
    hbr = pd.read_csv(main_study / "hbr.csv")
    train = pf.leave_one_out(pf.Interactions.from_file(toy)).train
    config = pf.RunConfig.from_preset("default").pdrec
    one = hbr[hbr["seed"] == 1]
    assert one["user"].nunique() == 3
    for user, rows in one.groupby("user", sort=False):
        index = int(np.flatnonzero(train.user_ids == user)[0])
        records = slice(train.indptr[index] + 1, train.indptr[index + 1])
        assert rows["item"].tolist() == train.item_ids[train.items[records]].tolist()
        assert rows["timestamp"].tolist() == train.timestamps[records].tolist()
        assert rows["position"].tolist() == list(range(2, len(rows) + 2))
        weights = hbr_weights(
            np.array([0, len(rows)]),
            rows["preference"].to_numpy(),
            train.items[records],
            rank_weight=config.hbr_rank_weight,
            clip=config.hbr_clip,
            rescale=config.hbr_rescale,
        )
        assert rows["weight"].to_numpy() == pytest.approx(weights, rel=1e-4)
        assert sorted(rows["rank"]) == list(range(1, len(rows) + 1))
        assert rows["rank"].iloc[rows["preference"].argmax()] == 1


def test_comparisons_are_of_the_runs(main_study):
    comparisons = read_table(main_study, "comparisons")
    pairs = comparisons[["model", "modules", "baseline"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["ti-diffrec", "none", "t-diffrec"], ["sasrec", "hbr+nns+dpa", "none"]]
    results = read_table(main_study, "results")
    place = {"protocol": "paper", "split": "test", "metric": "auc"}
    for column, value in place.items():
        results = results[results[column] == value]
        comparisons = comparisons[comparisons[column] == value]
    values = results[(results["model"] == "sasrec") & (results["modules"] == "none")]["value"]
    row = comparisons[comparisons["model"] == "sasrec"].iloc[0]
    assert row["baseline_mean"] == pytest.approx(values.mean())
    assert row["baseline_sd"] == pytest.approx(values.std())
    assert (row["seeds"], row["users"]) == (2, 60)
    assert 0 <= row["p_users"] <= 1


def test_tables_stand_beside_the_papers(main_study):
    text = (main_study / "tables.md").read_text()
    assert "paper 0.2286" in text
    assert "paper 0.1823" in text
    assert "| SASRec +HBR+NNS+DPA |" in text


def test_a_report_has_all_but_the_ablation(main_study, tmp_path):
    page = write_report([main_study], tmp_path / "report.html").read_text()
    assert page.count("Made by") == 1
    assert "No single modules and steps for Toy" in page
    mean = read_table(main_study, "results").query(
        "model == 'sasrec' and modules == 'none' and protocol == 'full' and split == 'test'"
    )
    mean = mean[mean["metric"] == "ndcg@10"]["value"].mean()
    assert f"{mean:.4f}".removeprefix("0") in page


def test_finished_jobs_are_not_done_again_and_studies_share_them(main_study, toy, tiny, in_process):
    before = times(main_study)
    study = json.loads((main_study / "study.json").read_text())
    study["finished"] = "2026-05-04T23:30:00+00:00"
    (main_study / "study.json").write_text(json.dumps(study))
    assert again(main_study, toy, tiny) == {}
    unchanged = json.loads((main_study / "study.json").read_text())
    assert unchanged["finished"] == study["finished"]
    assert in_process.did == []
    assert again(main_study, toy, tiny, "ablation", seeds=1) == {}
    assert len(in_process.did) == 6
    after = times(main_study)
    assert {name: after[name] for name in before} == before
    joined = json.loads((main_study / "study.json").read_text())
    assert joined["study"] == "main+ablation"
    assert joined["finished"] > study["finished"]
    assert "SASRec +NNS" in (main_study / "tables.md").read_text()


def test_parts_of_a_study_done_apart_make_the_whole(main_study, toy, tiny, tmp_path, in_process):
    parts = tmp_path / "a", tmp_path / "b"
    guided = "toy-sasrec+hbr+nns+dpa-0"
    assert again(parts[0], toy, tiny, seeds=1, only=["toy-sasrec+*"]) == {}
    assert in_process.did == ["toy-ti-diffrec-0", guided]  # with the one it needs
    in_process.did.clear()
    assert (
        again(parts[1], toy, tiny, seeds=1, only=["*-t-*", "toy-diffrec-?", "toy-sasrec-0"]) == {}
    )
    assert in_process.did == ["toy-diffrec-0", "toy-t-diffrec-0", "toy-sasrec-0"]
    in_process.did.clear()
    assert not any(json.loads((of / "study.json").read_text())["finished"] for of in parts)
    shutil.copytree(parts[1] / "runs", parts[0] / "runs", dirs_exist_ok=True)
    assert again(parts[0], toy, tiny, seeds=1, only=["toy-sasrec-0"]) == {}
    assert in_process.did == []
    assert json.loads((parts[0] / "study.json").read_text())["finished"]
    keys = ["model", "modules", "guide", "protocol", "split", "metric"]
    ours = read_table(parts[0], "results")
    whole = read_table(main_study, "results").query("seed == 0")
    whole = whole.merge(ours[["model", "modules", "guide"]].drop_duplicates())
    assert len(ours) == 5 * 2 * 2 * 12
    columns = [*keys, "value"]
    pd.testing.assert_frame_equal(
        ours[columns].sort_values(keys, ignore_index=True),
        whole[columns].sort_values(keys, ignore_index=True),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ["pdrec.epochs=9"]}, r"toy-diffrec-0: was run with other settings \(\["),
        ({"preset": "toy"}, r"other preset \(toy there, default here\); delete it"),
        ({"fingerprint": "0"}, r"other fingerprint \(0 there, "),
        ({"job": {"data": "book"}}, r"other data \(book there, toy here\)"),
        (None, r"job.json: damaged \(JSONDecodeError.*delete .*toy-diffrec-0, and give"),
    ],
)
def test_a_job_of_another_study_is_not_collected(main_study, toy, tiny, tmp_path, changes, message):
    out = tmp_path / "out"
    shutil.copytree(main_study, out)
    before = (out / "results.csv").read_text()
    marker = out / "runs" / "toy-diffrec-0" / "job.json"
    done = json.loads(marker.read_text())
    marker.write_text("{" if changes is None else json.dumps(done | changes))
    with pytest.raises(CheckpointError, match=message):
        collect(out)
    with pytest.raises(CheckpointError, match=message):
        again(out, toy, tiny)
    assert (out / "results.csv").read_text() == before


def test_what_older_versions_did_not_write_of_a_job_is_taken_as_right(main_study, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(main_study, out)
    for marker in out.glob("runs/*/job.json"):
        done = json.loads(marker.read_text())
        del done["settings"], done["fingerprint"]
        marker.write_text(json.dumps(done))
    assert collect(out) == len(list(out.glob("runs/*/job.json")))
    assert (out / "results.csv").read_text() == (main_study / "results.csv").read_text()


def test_a_study_whose_preset_was_called_none_goes_on(main_study, toy, tiny, tmp_path, in_process):
    out = tmp_path / "out"
    shutil.copytree(main_study, out)
    for file in (out / "study.json", *out.glob("runs/*/job.json")):
        file.write_text(file.read_text().replace('"preset": "default"', '"preset": "none"'))
    assert collect(out) == len(list(out.glob("runs/*/job.json")))
    assert (out / "results.csv").read_text() == (main_study / "results.csv").read_text()
    before = times(out)
    assert again(out, toy, tiny) == {}
    assert times(out) == before
    assert json.loads((out / "study.json").read_text())["data"][0]["preset"] == "default"


def test_half_copied_metrics_are_named(main_study, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(main_study, out)
    (out / "runs" / "toy-diffrec-0" / "metrics.json").write_text('{"protocols": {')
    with pytest.raises(
        CheckpointError, match=r"metrics.json: damaged .*delete .*toy-diffrec-0, and"
    ):
        collect(out)


def test_a_study_of_other_data_or_settings_is_refused(main_study, toy, tiny, tmp_path):
    before = (main_study / "study.json").read_text()
    with pytest.raises(CheckpointError, match=r"other settings .*; use another directory"):
        again(main_study, toy, tiny[:-1])
    with pytest.raises(CheckpointError, match=r"other toy.preset \(default there, toy here\)"):
        again(main_study, toy, tiny, presets=["toy"])
    (tmp_path / "toy.inter").write_text("".join(toy.open().readlines()[:-1]))
    with pytest.raises(CheckpointError, match=r"other toy.users|other toy.records"):
        again(main_study, tmp_path / "toy.inter", tiny)
    assert (main_study / "study.json").read_text() == before


def test_a_finished_job_of_other_settings_is_refused(main_study, toy, tiny):
    marker = main_study / "runs" / "toy-sasrec-0" / "job.json"
    text = marker.read_text()
    marker.write_text(text.replace('"batch_size": 128', '"batch_size": 127'))
    try:
        with pytest.raises(CheckpointError, match=r"pdrec.batch_size \(127 there, 128 here\)"):
            again(main_study, toy, tiny)
    finally:
        marker.write_text(text)


def test_files_are_read_as_the_options_say(toy, tiny, tmp_path, in_process, monkeypatch):
    renamed = tmp_path / "clicks.csv"
    lines = toy.read_text().replace("\t", ",").splitlines()
    renamed.write_text("\n".join(["who,what,when", *lines[1:]]))
    arguments = ["study", "main", "--data", str(renamed), "--out", str(tmp_path / "out")]
    arguments += [
        "--encoders",
        "sasrec",
        "--seeds",
        "1",
        "--only",
        "*-sasrec-0",
        "--repeats",
        "last",
    ]
    arguments += ["--threads", "1", *(f"--set={text}" for text in tiny)]
    arguments += ["--user-column", "who", "--item-column", "what", "--timestamp-column", "when"]
    monkeypatch.setattr(sys, "argv", ["pdrec-fast", *arguments])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert in_process.did == ["clicks-sasrec-0"]
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    read = pf.Interactions.from_file(toy, repeats="last")
    assert study["data"][0]["records"] == read.n_records
    assert study["data"][0]["fingerprint"] == read.fingerprint()


def test_a_foreign_directory_is_refused(toy, tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="exists and holds no study"):
        again(tmp_path, toy, tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CheckpointError, match="no study is here"):
        collect(tmp_path)


def test_a_study_killed_before_it_began_may_begin_again(toy, tiny, tmp_path, in_process):
    (tmp_path / ".lock").touch()
    assert again(tmp_path, toy, tiny, seeds=1, only=["toy-sasrec-0"]) == {}
    assert in_process.did == ["toy-sasrec-0"]


def test_one_at_a_time(toy, tiny, tmp_path, monkeypatch):
    from pdrec_fast.studies import study

    def meanwhile(*_, **__):
        with pytest.raises(CheckpointError, match="another process is at work on this study"):
            again(tmp_path / "out", toy, tiny)
        return {"toy-sasrec-0": "broken"}

    monkeypatch.setattr(study, "run_tasks", meanwhile)
    monkeypatch.setattr(study, "collect", lambda out: None)
    assert again(tmp_path / "out", toy, tiny, seeds=1) == {"toy-sasrec-0": "broken"}


def test_a_failed_job_is_reported_and_done_next_time(toy, tiny, tmp_path, in_process, capsys):
    in_process.breaks = ("toy-sasrec-0",)
    out = tmp_path / "out"
    arguments = ["study", "main", "--data", str(toy), "--out", str(out), "--preset", "default"]
    arguments += ["--encoders", "sasrec", "--seeds", "1", *(f"--set={text}" for text in tiny)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pdrec-fast", *arguments])
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        assert "error: toy-sasrec-0: broken on purpose" in capsys.readouterr().err
        assert "sasrec,none" not in (out / "results.csv").read_text()
        assert json.loads((out / "study.json").read_text())["finished"] == ""
        in_process.breaks, in_process.did = (), []
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    assert in_process.did == ["toy-sasrec-0"]
    assert "sasrec,none" in (out / "results.csv").read_text()


def test_two_domains(two_domains, tiny, tmp_path, in_process):
    target, source = two_domains
    out = tmp_path / "out"
    options = {"presets": ["default"], "seeds": 1, "settings": tiny}
    assert run_study("cross-domain", [target], source=source, out=out, **options) == {}
    results = read_table(out, "results")
    assert set(results["data"]) == {"toy-to-game"}
    assert results["modules"].drop_duplicates().tolist() == [
        "none",
        "hbr",
        "hbr+nns",
        "hbr+nns+dpa",
    ]
    assert "paper 0.3905" in (out / "tables.md").read_text()
    # The other direction belongs to the same table.
    assert run_study("cross-domain", [source], source=target, out=out, **options) == {}
    text = (out / "tables.md").read_text()
    assert text.index("## toy-to-game") < text.index("## game-to-toy")


def test_a_killed_study_continues(toy, tiny, tmp_path, in_process):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pdrec_fast", "study", "main", "--data", str(toy)]
    command += ["--preset", "default", "--encoders", "sasrec", "--seeds", "1", "--out", str(out)]
    command += [f"--set={text}" for text in tiny]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/job.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = json.loads((out / "study.json").read_text())["command"]
    assert f"--data {toy.name} " in kept
    assert str(tmp_path) not in kept  # others have other folders
    before = times(out)
    assert before.keys() >= {"toy-ti-diffrec-0"}
    assert not (out / "tables.md").exists()
    collect(out)
    assert "TI-DiffRec" in (out / "tables.md").read_text()
    time.sleep(0.5)  # its last job notices
    finished = {path.parent.name for path in out.glob("runs/*/job.json")}
    assert again(out, toy, tiny, seeds=1) == {}
    assert set(in_process.did) == {
        "toy-ti-diffrec-0", "toy-diffrec-0", "toy-t-diffrec-0", "toy-sasrec-0",
        "toy-sasrec+hbr+nns+dpa-0",
    } - finished  # fmt: skip
    assert all(times(out)[name] == before[name] for name in finished & before.keys())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cross-domain"}, "cross-domain needs a second domain: .*--source FILE"),
        ({"source": "x.inter"}, "a source domain belongs to the study cross-domain"),
        ({"data": []}, "main: give at least one file"),
        ({"presets": ["toy", "book"]}, "2 presets for 1 files"),
        ({"presets": ["toys"]}, "unknown preset='toys'"),
        ({"data": ["a/x.inter", "b/x.inter"]}, "two data sets are called 'x'"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"jobs": 0}, "jobs=0 must be at least 1"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"settings": ["pdrec.seed=3"]}, "the jobs of a study differ in pdrec.seed"),
        ({"settings": ["pdrec.sed=3"]}, "no such setting"),
        ({"encoders": ["x"]}, "unknown encoder 'x'"),
        (
            {"only": ["*-9"]},
            r"--only \*-9: matches no job of this study; they are toy-ti-diffrec-0,",
        ),
    ],
)
def test_arguments_are_checked_before_anything_is_made(changes, message, toy, tmp_path):
    options = {"kind": "main", "data": [toy], "out": tmp_path / "out"} | changes
    with pytest.raises(ValueError, match=message):
        run_study(**options)
    assert not (tmp_path / "out").exists()


def test_presets_are_those_of_the_files_names(tmp_path):
    from pdrec_fast.studies.study import _datasets

    found = _datasets("main", ["x/toy.inter", "y/clicks.csv"], None, None, {})
    assert [(of.name, of.preset) for of in found] == [("toy", "toy"), ("clicks", "default")]
    mixed = _datasets("cross-domain", ["toy.inter"], "game.inter", None, {})
    assert [(of.name, of.preset) for of in mixed] == [("game-to-toy", "toy")]


@pytest.mark.parametrize("name", ["scipy", "pandas"])
def test_without_the_extra_it_says_what_to_install(name, toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"need {name}: pip install 'pdrec_fast\[studies\]'"):
        run_study("main", [toy], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
