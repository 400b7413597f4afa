"""The whole job through the Python API and the command line."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.errors import CheckpointError, DataError
from pdrec_fast.evaluation import validation_sample
from pdrec_fast.pipeline import SplitSpec
from pdrec_fast.settings_format import FORMAT
from pdrec_fast.training import MODULES

SHORT = (
    "--set=diffusion.epochs=3",
    "--set=diffusion.hidden=16",
    "--set=pdrec.epochs=2",
    "--set=encoder.width=8",
    "--set=n_draws=16",
    "--set=top_m=5",
)
FAST = ("--modules=hbr,dpa,nns", *SHORT)


RUN = ("run", "--data", "{data}", "--out", "out")


def fast_config(modules=MODULES, **changes):
    config = pf.RunConfig.from_preset("default", modules=modules)
    return replace(
        config,
        diffusion=replace(config.diffusion, epochs=3, hidden=(16,)),
        pdrec=replace(config.pdrec, epochs=2),
        encoder_options={"width": 8},
        n_draws=16,
        top_m=5,
        **changes,
    )


@pytest.fixture(scope="module")
def data():
    made = pf.synthetic(n_users=120, n_items=260, seed=3)
    # Without the items that nobody touched, which no file would mention.
    users, items = made.user_ids[made.record_users], made.item_ids[made.items]
    return pf.Interactions.from_arrays(users, items, made.timestamps)


@pytest.fixture(scope="module")
def data_file(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clicks.inter"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["user_id:token", "item_id:token", "timestamp:float"])
        for user, item, when in zip(data.record_users, data.items, data.timestamps, strict=True):
            writer.writerow([data.user_ids[user], data.item_ids[item], when])
    return path


def command(*arguments, cwd=None, environment=None):
    """Run the command line in this process: its own would import torch anew every time."""
    stdout, stderr, before = io.StringIO(), io.StringIO(), os.getcwd()
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pdrec-fast", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        os.chdir(cwd or before)
        threads = torch.get_num_threads()
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                cli.main()
        except SystemExit as exit:
            status = exit.code or 0
        finally:
            torch.set_num_threads(threads)
            os.chdir(before)
    return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="module")
def finished(data_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    result = command("run", "--data", data_file, "--out", out, "--threads", 1, "--quiet", *FAST)
    assert result.returncode == 0, result.stderr
    return out, result


def test_metrics_file_has_what_the_command_promises(finished, data):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert metrics["dataset"] == {"users": 120, "items": data.n_items, "records": data.n_records}
    for results in (metrics["protocols"], metrics["diffusion"], metrics["popularity"]):
        for protocol in ("paper", "full"):
            for part in ("valid", "test"):
                values = results[protocol][part]
                assert {"ndcg@10", "hr@10", "auc", "mrr", "hr@50", "ndcg@1"} <= values.keys()
                assert all(0 <= value <= 1 for value in values.values())
    seconds = metrics["seconds"]
    stages = {"diffusion", "guide", "preferences", "encoder", "fusion", "evaluation"}
    assert seconds.keys() == stages
    assert seconds.pop("guide") == seconds.pop("fusion") == 0
    assert all(value > 0 for value in seconds.values())
    assert metrics["peak_rss_gib"] > 0.05
    assert metrics["config"]["pdrec"]["modules"] == ["hbr", "dpa", "nns"]
    assert metrics["epochs"]["encoder"]["trained"] == 2


def test_every_printed_table_names_its_protocol(finished):
    text = finished[1].stdout
    assert "protocol: paper (1 target vs 99 sampled negatives), split: test" in text
    assert "protocol: full (1 target vs all items not in the history), split: valid" in text
    assert "sasrec+hbr+dpa+nns" in text
    assert "leave-one-out split of 120 users" in text


def test_popularity_stands_beside_the_models(finished, data):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    split = pf.leave_one_out(data)
    assert metrics["popularity"] == pf.evaluate(pf.Popularity(split.train), split)
    again = command("evaluate", "--run", finished[0], "--threads", 1)
    for text in (finished[1].stdout, again.stdout):
        rows = [line.split() for line in text.splitlines() if " popularity " in line]
        assert [row[0] for row in rows] == ["paper", "paper", "full", "full"]
        assert rows[1][5] == f"{metrics['popularity']['paper']['test']['ndcg@10']:.4f}"


def test_metrics_of_older_runs_print_without_popularity(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    del metrics["popularity"]
    text = cli._metrics_text(metrics, None)
    assert " popularity " not in text
    assert "sasrec+hbr+dpa+nns" in text


def test_what_trainings_have_to_tell_is_printed(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    history = metrics["history"]["encoder"]
    assert history["validation_users"] == history["of_users"] == 120
    selected = metrics["config"]["pdrec"]["select_by"]
    assert history["popularity"] == metrics["popularity"][selected]["valid"]["ndcg@10"]
    history |= {"of_users": 2500, "remarks": {"below": "raise lr", "level": "by chance"}}
    lines = cli._metrics_text(metrics, None).splitlines()
    assert "encoder: selected on a fixed sample of 120 of 2,500 users" in lines
    assert lines.index("warning: encoder: raise lr") < lines.index("note: encoder: by chance")
    for key in ("validation_users", "of_users", "popularity", "remarks"):  # as version 0.1.0
        del history[key]
    text = cli._metrics_text(metrics, None)
    assert "raise lr" not in text
    assert "encoder: " not in text


def test_a_hopeless_learning_rate_is_told(caplog):
    settings = {"pdrec.lr": 30.0, "pdrec.similarity": "dot", "pdrec.select_by": "paper"}
    config = pf.with_settings(fast_config(modules=()), settings | {"pdrec.epochs": 6})
    result = pf.run(pf.synthetic(n_users=400, n_items=260, seed=3), config, progress=False)
    history = result.metrics["history"]["encoder"]
    assert history["best_value"] < history["popularity"]
    assert "sasrec, epoch" in caplog.text
    assert "try another learning rate (lr, 30 here)" in caplog.text


def test_early_stopping_on_a_sample_tests_all(data, tmp_path):
    settings = {"diffusion.validation_users": 30, "pdrec.validation_users": 20}
    config = pf.with_settings(fast_config(), settings)
    result = pf.run(data, config, out=tmp_path / "out", progress=False)
    for model, n_users in (("diffusion", 30), ("encoder", 20)):
        history = result.metrics["history"][model]
        assert (history["validation_users"], history["of_users"]) == (n_users, 120)
    ranks = result.ranks["full"]
    assert len(ranks["valid"]) == len(ranks["test"]) == 120
    sampled = pf.evaluate(
        result.model,
        validation_sample(result.split, 20, seed=0),
        on=["valid"],
        protocols=[config.pdrec.select_by],
    )
    best = sampled[config.pdrec.select_by]["valid"]["ndcg@10"]
    assert best == pytest.approx(result.model.history.best_value)


def test_python_api_gives_the_same_numbers(finished, data_file):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = pf.run(pf.Interactions.from_file(data_file), fast_config(), progress=False)
    finally:
        torch.set_num_threads(threads)
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert result.metrics["protocols"] == metrics["protocols"]
    assert result.metrics["diffusion"] == metrics["diffusion"]


def test_finished_run_is_not_done_again(finished, data_file):
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*.safetensors")}
    old = json.loads((finished[0] / "metrics.json").read_text())
    result = command(
        "run", "--data", data_file, "--out", finished[0], "--threads", 1, "--quiet", *FAST
    )
    assert result.returncode == 0, result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    new = json.loads((finished[0] / "metrics.json").read_text())
    assert new["protocols"] == old["protocols"]
    for stage in ("diffusion", "preferences", "encoder"):
        assert new["seconds"][stage] == old["seconds"][stage]
    assert new["peak_rss_gib"] >= old["peak_rss_gib"]


def test_directory_of_another_run_is_refused(finished, data_file):
    result = command("run", "--data", data_file, "--out", finished[0], "--seed", 1, *FAST)
    assert result.returncode == 1
    assert "config.pdrec.seed (0 there, 1 here)" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_older_than_a_setting_had_its_default(data, tmp_path):
    out, config = tmp_path / "out", fast_config(modules=())
    config = pf.with_settings(config, {"pdrec.loss": "bce"})
    first = pf.run(data, config, out=out, progress=False)
    marker = json.loads((out / "run.json").read_text())
    del marker["config"]["pdrec"]["loss"], marker["config"]["guide"]
    (out / "run.json").write_text(json.dumps(marker))
    again = pf.run(data, config, out=out, progress=False)
    assert again.metrics["seconds"]["encoder"] == first.metrics["seconds"]["encoder"]
    other = replace(config, pdrec=replace(config.pdrec, loss="softmax"))
    with pytest.raises(CheckpointError, match=r"pdrec\.loss \(bce there, softmax here"):
        pf.run(data, other, out=out, progress=False)
    marker["config"]["pdrec"]["speed"] = 9  # of a newer version
    (out / "run.json").write_text(json.dumps(marker))
    with pytest.raises(CheckpointError, match=r"config\.pdrec\.speed \(9 there, None here"):
        pf.run(data, config, out=out, progress=False)


def test_a_run_of_a_newer_version_is_refused(data, tmp_path):
    out, config = tmp_path / "out", fast_config(modules=())
    pf.run(data, config, out=out, progress=False)
    marker = json.loads((out / "run.json").read_text())
    assert marker["config"]["format"] == FORMAT
    marker["config"]["format"] = FORMAT + 1
    (out / "run.json").write_text(json.dumps(marker))
    with pytest.raises(CheckpointError, match=r"run\.json: its settings have format .* newer"):
        pf.run(data, config, out=out, progress=False)
    for damaged in ("{", "[]", '{"config": 1}', "{}"):
        (out / "run.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
            pf.run(data, config, out=out, progress=False)


@pytest.mark.parametrize("damaged", ["{", "[]", "{}"])
def test_damaged_times_of_a_run_are_named(data, tmp_path, damaged):
    out, config = tmp_path / "out", fast_config(modules=())
    pf.run(data, config, out=out, progress=False)
    (out / "stages.json").write_text(damaged)
    with pytest.raises(CheckpointError, match=r"stages\.json: damaged .*; delete it"):
        pf.run(data, config, out=out, progress=False)


@pytest.mark.parametrize(
    "arguments", [["run", "--out", "out"], ["tune", "--out", "out"], ["presets"]]
)
def test_the_former_name_of_the_default_preset_is_told(tmp_path, arguments):
    options = ["none"] if arguments == ["presets"] else ["--preset", "none", "--data", "nowhere"]
    result = command(*arguments, *options, cwd=tmp_path)
    assert "warning: the preset 'none' is now called 'default': write 'default'" in result.stderr


def test_foreign_directory_is_refused(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="exists and is no run"):
        pf.run(data, fast_config(), out=tmp_path, progress=False)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_killed_run_continues_to_the_same_numbers(finished, data_file, tmp_path):
    out = tmp_path / "killed"
    arguments = ["run", "--data", data_file, "--out", out, "--threads", 1, "--quiet", *FAST]
    arguments += ["--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pdrec_fast", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / "diffusion.checkpoint" / "manifest.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists()
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    expected = json.loads((finished[0] / "metrics.json").read_text())["protocols"]
    assert json.loads((out / "metrics.json").read_text())["protocols"] == expected


def test_profile_prints_rates_and_leaves_traces(data_file, tmp_path):
    out, traces = tmp_path / "out", tmp_path / "traces"
    run = ("run", "--data", data_file, "--out", out, "--profile", traces, "--quiet", *FAST)
    first = command(*run)
    assert first.returncode == 0, first.stderr
    assert "items scored/s" in first.stdout
    stages = {"diffusion", "preferences", "encoder", "evaluation"}
    assert stages <= {line.split()[0] for line in first.stdout.splitlines() if line.strip()}
    found = {path.name for path in traces.iterdir()}
    assert found == {"profile.json"} | {f"{name}.trace.json.gz" for name in stages}
    again = command(*run)  # tests again what is finished, and trains nothing
    assert set(json.loads((traces / "profile.json").read_text())["stages"]) == {"evaluation"}
    assert "items scored/s" in again.stdout


def test_an_unknown_device_is_named(data_file, tmp_path):
    result = command("run", "--data", data_file, "--out", "out", "--device", "gpu", cwd=tmp_path)
    assert result.returncode == 1
    assert "error: device='gpu'" in result.stderr
    assert "'auto', 'cpu' or 'cuda'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_graphs_without_a_gpu_are_refused_before_training(data_file, tmp_path):
    run = ("run", "--data", data_file, "--out", "out", "--device", "cpu", "--cuda-graphs")
    result = command(*run, cwd=tmp_path)
    assert result.returncode == 1
    assert "error: cuda_graphs=True needs a GPU" in result.stderr
    assert not (tmp_path / "out").exists()


def test_another_run_can_use_the_diffusion_model(finished, data_file, tmp_path):
    out = tmp_path / "ablation"
    result = command(
        "run", "--data", data_file, "--out", out, "--diffusion", finished[0], "--threads", 1,
        "--quiet", *(s for s in FAST if "diffusion" not in s), "--modules", "nns",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    first = json.loads((finished[0] / "metrics.json").read_text())
    # Tested in its own run, and not again.
    assert metrics["diffusion"] is None
    lines = [line for line in result.stdout.splitlines() if "alone, in its own run" in line]
    value = f"{first['diffusion']['paper']['test']['ndcg@10']:.4f}"
    assert any(value in line for line in lines)
    assert metrics["config"]["pdrec"]["modules"] == ["nns"]
    assert not (out / "diffusion").exists()


def test_a_given_diffusion_model_that_recommends_is_tested(data):
    config = fast_config(encoder="diffusion")
    first = pf.run(data, config, progress=False)
    again = pf.run(data, config, diffusion=first.diffusion, progress=False)
    assert again.metrics["diffusion"] == again.metrics["protocols"] == first.metrics["protocols"]


def test_plain_backbone_trains_no_diffusion(data):
    result = pf.run(data, fast_config(modules=()), progress=False)
    assert result.diffusion is None
    assert result.metrics["diffusion"] is None
    seconds = result.metrics["seconds"]
    assert seconds["diffusion"] == seconds["preferences"] == 0
    assert seconds["encoder"] > 0


def test_diffusion_alone_is_a_recommender(data):
    result = pf.run(data, fast_config(encoder="diffusion"), progress=False)
    assert result.model is None
    assert result.metrics["protocols"] == result.metrics["diffusion"]


def test_another_encoder_takes_the_place_of_the_diffusion(data, tmp_path):
    config = fast_config(guide="sasrec")
    result = pf.run(data, config, out=tmp_path / "out", progress=False)
    assert result.diffusion is None
    assert result.guide.config.modules == ()
    assert (result.guide.config.seed, result.model.config.seed) == (1, 0)
    assert result.guide.encoder_options == pf.SASRecConfig(width=8)
    expected = pf.Preferences.infer(
        result.guide, result.split.train, top_m=5, n_draws=16, omega_m=0.5, progress=False
    )
    assert result.preferences.fingerprint() == expected.fingerprint()
    metrics = result.metrics
    assert metrics["diffusion"] is None
    assert metrics["guide"] == result.guide.evaluate(result.split)
    assert metrics["guide"] != metrics["protocols"]
    assert metrics["seconds"]["guide"] > 0 == metrics["seconds"]["diffusion"]
    assert metrics["epochs"]["guide"]["trained"] == 2
    again = pf.run(data, config, out=tmp_path / "out", progress=False)
    assert again.metrics["protocols"] == metrics["protocols"]
    assert again.metrics["seconds"]["guide"] == metrics["seconds"]["guide"]


def test_an_encoder_guides_where_users_have_no_history(data):
    valid_from, test_from = np.quantile(data.timestamps, [0.5, 0.7])
    split = SplitSpec(float(valid_from), float(test_from))
    result = pf.run(data, fast_config(guide="sasrec", split=split), progress=False)
    assert not np.diff(result.split.train.indptr).all()
    assert 0 < result.metrics["protocols"]["full"]["test"]["auc"] < 1


def test_guide_on_the_command_line(data_file, tmp_path):
    out = tmp_path / "out"
    options = (*FAST, "--guide", "sasrec", "--modules", "nns")
    result = command("run", "--data", data_file, "--out", out, "--quiet", *options)
    assert result.returncode == 0, result.stderr
    assert "sasrec (guide)" in result.stdout
    assert "diffusion alone" not in result.stdout
    assert json.loads((out / "metrics.json").read_text())["config"]["guide"] == "sasrec"


def test_data_without_a_next_item_are_refused_before_training(tmp_path):
    users = np.repeat(np.arange(150), 3)
    data = pf.Interactions.from_arrays(users, (users * 7 + np.arange(450)) % 200, np.arange(450))
    with pytest.raises(DataError, match="no user has two training records"):
        pf.run(data, fast_config(), out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_split_by_time(data):
    valid_from, test_from = np.quantile(data.timestamps, [0.7, 0.85])
    config = fast_config(modules=("hbr",), split=SplitSpec(float(valid_from), float(test_from)))
    result = pf.run(data, config, progress=False)
    assert result.split.train.timestamps.max() < valid_from
    assert 0 < result.metrics["protocols"]["full"]["test"]["auc"] < 1


def test_small_corpus_is_selected_and_tested_under_full(caplog):
    small = pf.synthetic(n_users=60, n_items=70, seed=1)
    result = pf.run(small, fast_config(), progress=False)
    assert set(result.metrics["protocols"]) == {"full"}
    assert "too small for the 'paper' protocol" in caplog.text


def test_a_small_target_is_tested_under_full_however_large_the_source(data):
    kept = data.items < 60
    small = pf.Interactions.from_arrays(
        data.record_users[kept], data.items[kept], data.timestamps[kept]
    )
    large = pf.Interactions.from_arrays(data.record_users, data.items, data.timestamps)
    result = pf.run(pf.mix_domains(small, large), fast_config(modules=()), progress=False)
    assert set(result.metrics["protocols"]) == {"full"}


def test_recommend_prints_raw_ids(finished, data):
    out = finished[0]
    users = [data.user_ids[0].item(), data.user_ids[7].item()]
    result = command(
        "recommend", "--run", out, "--users", ",".join(map(str, users)), "-k", 4, "--format", "json"
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(row["user"], row["rank"]) for row in rows] == [
        (u, r) for u in users for r in (1, 2, 3, 4)
    ]
    seen = set(data.item_ids[data.items[data.indptr[0] : data.indptr[1]]].tolist())
    assert not seen & {row["item"] for row in rows[:4]}
    model = pf.PDRec.load(out / "model")
    items, _ = model.recommend(users, 4)
    assert [row["item"] for row in rows] == items.ravel().tolist()
    as_csv = command("recommend", "--run", out, "--users", users[0], "-k", 2, "--format", "csv")
    assert next(csv.DictReader(as_csv.stdout.splitlines()))["item"] == str(items[0, 0])


def test_another_model_does_not_stand_in_for_a_lost_one(finished, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(finished[0], damaged)
    shutil.rmtree(damaged / "model")
    result = command("recommend", "--run", damaged, "--users", "1")
    assert (result.returncode, result.stdout) == (1, "")
    assert "model: no PDRec model is saved here" in result.stderr


def test_recommend_refuses_how_to_read_what_is_not_given(finished):
    options = "--user-column", "u", "--no-header", "--since", "2020-01-01"
    result = command("recommend", "--run", finished[0], "--all", *options)
    assert result.returncode == 1
    assert result.stderr == (
        "error: --user-column, --no-header, --since: say how --data is read; give --data too, or "
        "leave out what has no effect\n"
    )


def test_recommend_into_a_file_for_anyone(finished, data, tmp_path):
    out, clicks = finished[0], data.item_ids[[3, 8]].tolist()
    run = ("recommend", "--run", out, "-k", 3)
    (tmp_path / "users.txt").write_text("nobody\n" + "\n".join(map(str, data.user_ids[:5])) + "\n")
    result = command(
        *run, "--users-file", "users.txt", "--unknown", "popular", "--out", "some.csv", "--quiet",
        cwd=tmp_path,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "written to some.csv\n", "")
    with open(tmp_path / "some.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    model = pf.PDRec.load(out / "model")
    found = model.recommend(["nobody", *data.user_ids[:5].tolist()], 3, unknown="popular")
    assert [row["item"] for row in rows] == [str(item) for item in found.items.ravel()]
    assert [row["fallback"] for row in rows] == ["1"] * 3 + ["0"] * 15
    result = command(*run, "--history", f"{clicks[0]}, {clicks[1]}", "--format", "json")
    found = model.recommend(k=3, history=clicks)
    assert [row["item"] for row in json.loads(result.stdout)] == found.items[0].tolist()
    result = command(*run, "--all", "--users", "1")
    assert (result.returncode, result.stdout) == (1, "")
    assert "exclude each other" in result.stderr


@pytest.fixture(scope="module")
def two_files(data, tmp_path_factory):
    """The data as two domains by the parity of the items, with equal raw ids."""
    folder = tmp_path_factory.mktemp("domains")
    paths = [folder / name for name in ("target.csv", "source.csv")]
    for parity, path in enumerate(paths):
        kept = data.items % 2 == parity
        columns = data.record_users[kept], data.items[kept] // 2, data.timestamps[kept]
        np.savetxt(
            path, np.column_stack(columns), delimiter=",", header="user_id,item_id,timestamp",
            fmt=["%d", "%d", "%f"], comments="",
        )  # fmt: skip
    return paths


@pytest.fixture(scope="module")
def mixed_run(two_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mixed"
    result = command(
        "run", "--data", two_files[0], "--source", two_files[1], "--out", out, "--threads", 1,
        "--quiet", *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out, result


def test_two_domains_are_trained_together_and_the_target_is_evaluated(mixed_run, two_files, data):
    target, source = map(pf.Interactions.from_file, two_files)
    metrics = json.loads((mixed_run[0] / "metrics.json").read_text())
    assert metrics["dataset"] == {
        "users": data.n_users,
        "items": target.n_items + source.n_items,
        "records": data.n_records,
        "target_items": target.n_items,
    }
    cases = len(pf.leave_one_out(target).test)
    assert f"test cases: {cases}" in mixed_run[1].stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = pf.run(pf.mix_domains(target, source), fast_config(), progress=False)
    finally:
        torch.set_num_threads(threads)
    assert result.metrics["protocols"] == metrics["protocols"]
    assert result.metrics["diffusion"] == metrics["diffusion"]
    repeated = command("evaluate", "--run", mixed_run[0], "--json", "--threads", 1)
    assert json.loads(repeated.stdout) == metrics["protocols"]


@pytest.mark.parametrize("seen", [[], ["--include-seen"]])
def test_only_items_of_the_target_are_recommended(mixed_run, two_files, seen):
    target, source = map(pf.Interactions.from_file, two_files)
    most = min(target.n_items, 120)
    user = source.user_ids[0]
    result = command(
        "recommend", "--run", mixed_run[0], "--users", user, "-k", most, "--format", "json", *seen
    )
    assert result.returncode == 0, result.stderr
    items = [row["item"] for row in json.loads(result.stdout)]
    assert len(items) >= most - 60
    assert set(items) <= set(map(str, target.item_ids))
    too_many = target.n_items + 1
    result = command("recommend", "--run", mixed_run[0], "--users", user, "-k", too_many)
    assert f"1 .. {target.n_items} (the number of items)" in result.stderr


def test_a_run_without_its_source_is_another(mixed_run, two_files):
    result = command("run", "--data", two_files[0], "--out", mixed_run[0], "--quiet", *FAST)
    assert result.returncode == 1
    assert "holds a run with other data" in result.stderr


def test_domains_without_a_common_time_are_refused(two_files, tmp_path):
    source = tmp_path / "source.csv"
    lines = two_files[1].read_text().splitlines()
    source.write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    out = tmp_path / "out"
    result = command("run", "--data", two_files[0], "--source", source, "--out", out, *FAST)
    assert result.returncode == 1
    assert "error: the source domain has no timestamps" in result.stderr
    assert not out.exists()


def test_evaluate_repeats_the_tested_numbers(finished):
    result = command("evaluate", "--run", finished[0], "--json", "--threads", 1)
    assert result.returncode == 0, result.stderr
    expected = json.loads((finished[0] / "metrics.json").read_text())["protocols"]
    assert json.loads(result.stdout) == expected


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--data", "nowhere.csv", "--out", "out"], 1, "nowhere.csv"),
        ([*RUN, "--preset", "toys"], 2, "toys"),
        ([*RUN, "--encoder", "bert"], 2, "bert"),
        ([*RUN, "--modules", "hbr,dpo"], 1, "dpo"),
        ([*RUN, "--guide", "bert"], 2, "bert"),
        ([*RUN, "--guide", "sasrec", "--modules", "none"], 1, "no module that would use it"),
        ([*RUN, "--guide", "sasrec", "--encoder", "diffusion"], 1, "no module that would use it"),
        ([*RUN, "--guide", "sasrec", "--diffusion", "{run}"], 1, "leave out one of the two"),
        ([*RUN, "--set", "pdrec.lr"], 1, "KEY=VALUE"),
        (
            [*RUN, "--set", "pdrec.speed=9"],
            1,
            "no such setting",
        ),
        ([*RUN, "--set", "pdrec.lr=fast"], 1, "type float"),
        ([*RUN, "--set", "pdrec.skip_cold_items=1"], 1, "type bool"),
        ([*RUN, "--set", "pdrec.dpa_start=999"], 1, "dpa_start=999: in "),
        (
            [*RUN, "--set", "pdrec.loss=bpr"],
            1,
            "loss='bpr': choose one of ('bce', 'gbce', 'softmax', 'shared_softmax', ",
        ),
        (
            [*RUN, "--set", "pdrec.lr=-1"],
            1,
            "lr must be positive",
        ),
        ([*RUN, "--set", "pdrec.lr=Infinity"], 1, "lr must be finite, got inf"),
        ([*RUN, "--set", "pdrec.lr=NaN"], 1, "lr must be positive, got nan"),
        ([*RUN, "--set", "pdrec.clip_norm=-1"], 1, "clip_norm must not be negative, got -1"),
        ([*RUN, "--set", "pdrec.lr_schedule=step"], 1, "lr_schedule='step': choose one of"),
        ([*RUN, "--set", "diffusion.lr=Infinity"], 1, "lr must be finite, got inf"),
        ([*RUN, "--set", "diffusion.weight_decay=-1"], 1, "weight_decay must not be negative"),
        ([*RUN, "--set", "diffusion.time_embedding=0"], 1, "time_embedding must be at least 1"),
        ([*RUN, "--set", "encoder.impl=foo"], 1, "impl='foo': choose one of ('auto', 'cpp'"),
        ([*RUN, "--valid-from", "5"], 1, "both valid_from"),
        (["run", "--data", "{data}"], 2, "--out"),
        ([*RUN, "--set", "encoder.widht=8"], 1, "widht"),
        ([*RUN, "--set", "omega_m=1.0"], 1, "omega_m must lie in [0, 1)"),
        ([*RUN, "--set", "pdrec.hbr_clip=-1"], 1, "hbr_clip must be positive"),
        ([*RUN, "--set", "pdrec.epochs=0"], 1, "epochs must be at least 1"),
        ([*RUN, "--set", "evaluation_seed=-1"], 1, "evaluation_seed=-1"),
        ([*RUN, "--set", "diffusion.hidden=abc"], 1, "hidden must be one or more widths"),
        ([*RUN, "--set", "diffusion.noise_max=900"], 1, "noise_max=900"),
        (
            [*RUN, "--modules", "dpa", "--set", "pdrec.dpa_top_n=70"],
            1,
            "dpa_top_n=70 is more than top_m",
        ),
        ([*RUN, "--diffusion", "{run}", "--modules", "none"], 1, "no module that would use it"),
        ([*RUN, "--diffusion", "{run}", "--set", "diffusion.lr=1.0"], 1, "no effect"),
        ([*RUN, "--diffusion", "{run}", "--min-user", "9"], 1, "other training interactions"),
        (["recommend", "--run", "{run}", "--users", "999999"], 1, "999999"),
        (["recommend", "--run", "nowhere", "--users", "1"], 1, "no run is here"),
        (["recommend", "--run", "{run}", "--users", "1", "-k", "0"], 2, "-k"),
        (["recommend", "--run", "{run}", "--users", "1", "-k", "5000"], 1, "5000"),
        (["evaluate", "--run", "{run}", "--protocol", "secret"], 1, "secret"),
    ],
)
def test_wrong_inputs_end_with_one_clear_line(
    finished, data_file, tmp_path, arguments, status, message
):
    filled = [a.format(data=data_file, run=finished[0]) for a in arguments]
    result = command(*filled, cwd=tmp_path)
    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists(), "nothing half-written is left behind"


def test_help_and_version():
    assert f"pdrec-fast {pf.__version__}" in command("--version").stdout
    text = command("run", "--help", environment={"COLUMNS": "200"}).stdout
    for option in ("--data", "--preset", "--encoder", "--modules", "--seed", "--out", "--set"):
        assert option in text
    assert {"run", "recommend", "evaluate", "demo"} <= set(command("--help").stdout.split())


def test_set_out_is_a_path_object(data, tmp_path):
    out = Path(tmp_path) / "deep" / "run"
    pf.run(data, fast_config(modules=()), out=str(out), progress=False)
    assert (out / "metrics.json").exists()


def test_a_run_fuses_what_it_is_told_and_says_so(data, tmp_path):
    config = fast_config(("fusion",))
    result = pf.run(data, config, out=tmp_path / "r", progress=False)
    assert result.preferences is None  # no module asks for them
    assert list(result.model.fusion.guides) == ["guide", "linear"]
    assert result.model.fusion.guides["guide"] is result.diffusion
    shares = result.metrics["fusion"]
    assert {name: share["weight"] for name, share in shares.items()} == {
        name: share.weight for name, share in result.model.fusion.shares.items()
    }
    again = pf.run(data, config, out=tmp_path / "r", progress=False)
    assert again.metrics["protocols"] == result.metrics["protocols"]
    (tmp_path / "r/metrics.json").unlink()
    again = pf.run(data, config, out=tmp_path / "r", progress=False)
    assert again.metrics["fusion"] == shares
    alone = pf.evaluate(result.model.without_fusion(), result.split, protocols=("full",))
    assert again.metrics["alone"]["full"] == alone["full"]
    shown = command("evaluate", "--run", tmp_path / "r", "--quiet").stdout
    value = f"{alone['full']['test']['ndcg@10']:.4f}"
    assert re.search(rf"^full +sasrec alone .*{value}", shown, re.MULTILINE)
    loaded = pf.PDRec.load(tmp_path / "r/model")
    histories = result.split.test.histories[:5]
    assert torch.equal(loaded.scores(histories), result.model.scores(histories))
    few = pf.run(data, replace(config, fusion_guides=("popularity",)), progress=False)
    assert few.diffusion is None
    assert few.metrics["alone"]["full"] == alone["full"]
    assert list(few.metrics["fusion"]) == ["popularity"]
    text = cli._metrics_text(result.metrics | {"fusion": SHARES}, None)
    assert "logits + 0.5 x log guide + no linear + 2 x popularity" in text


SHARES = {
    "guide": {"weight": 0.5, "transform": "log", "floor": 1e-4},
    "linear": {"weight": 0.0, "transform": "raw", "floor": 1e-4},
    "popularity": {"weight": 2.0, "transform": "raw", "floor": 1e-4},
}


@pytest.mark.parametrize("guides", [(), ("guide", "other")])
def test_unknown_guides_of_the_fusion(guides):
    with pytest.raises(ValueError, match=r"fusion_guides=.*choose at least one"):
        fast_config(("fusion",), fusion_guides=guides)


def test_an_encoder_can_be_the_fused_guide(data):
    config = fast_config(("fusion",), guide="gru4rec", fusion_guides=("guide",))
    result = pf.run(data, config, progress=False)
    assert result.diffusion is None
    assert result.model.fusion.guides["guide"] is result.guide


def test_settings_of_the_fusion_have_keys():
    config = pf.with_settings(
        fast_config(("fusion",)), {"linear.ridge": "30", "fusion_guides": '["linear", "guide"]'}
    )
    assert config.linear.ridge == 30.0
    assert config.fusion_guides == ("linear", "guide")
    assert pf.with_settings(config, {"fusion_guides": "linear"}).fusion_guides == ("linear",)
