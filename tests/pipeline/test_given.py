"""Runs on a given split: held-out sets in files of their own."""

import json

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.pipeline.given import fingerprint_of, load_split, save_split
from tests.test_pipeline import FAST, command


@pytest.fixture(scope="module")
def parts():
    """Records of every user in time order, the last two fifths held out, half and half."""
    data = pf.synthetic(n_users=50, n_items=200, seed=5)
    place = np.arange(data.n_records) - data.indptr[data.record_users]
    share = place / np.diff(data.indptr)[data.record_users]
    found = []
    for low, high in ((0, 0.6), (0.6, 0.8), (0.8, 1)):
        some = (share >= low) & (share < high)
        users, items = data.user_ids[data.record_users[some]], data.item_ids[data.items[some]]
        found.append((users, items, data.timestamps[some]))
    return found


@pytest.fixture
def files(parts, tmp_path):
    paths = []
    for name, columns in zip(("train", "valid", "test"), parts, strict=True):
        rows = "".join(f"{user},{item},{when}\n" for user, item, when in zip(*columns, strict=True))
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("user_id,item_id,timestamp\n" + rows)
    return paths


def test_the_command_tests_sets_and_goes_on_and_tests_again(files, parts, tmp_path):
    train, valid, test = files
    options = ("--out", tmp_path / "run", "--threads", 1, "--quiet", *FAST)
    given = ("--data", train, "--valid-file", valid, "--test-file", test)
    result = command("run", *given, *options)
    assert result.returncode == 0, result.stderr
    assert "given split of 50 users" in result.stdout
    assert "held-out sets of users vs all items not in the history, split: test" in result.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    split = pf.given_split(*(pf.Interactions.from_arrays(*columns) for columns in parts))
    assert (np.unique(split.test.users, return_counts=True)[1] > 1).any()
    model = pf.PDRec.load(tmp_path / "run" / "model", device="cpu")
    for name, scorer in (("protocols", model), ("popularity", pf.Popularity(split.train))):
        wanted = pf.evaluate_sets(scorer, split)
        for on in ("valid", "test"):
            assert metrics["sets"][name][on] == pytest.approx(wanted[on])
    # Again: the same run, the same numbers.
    assert command("run", *given, *options).returncode == 0
    again = command("evaluate", "--run", tmp_path / "run", "--json", "--threads", 1)
    assert json.loads(again.stdout) == metrics["protocols"]
    # Other parts are another run.
    swapped = ("--data", train, "--valid-file", test, "--test-file", valid)
    other = command("run", *swapped, *options)
    assert (other.returncode, "with other data" in other.stderr) == (1, True), other.stderr


def test_final_models_and_updates_of_a_given_split(files, parts, tmp_path):
    train, valid, test = files
    options = ("--threads", 1, "--quiet")
    given = ("--data", train, "--valid-file", valid, "--test-file", test)
    run = command("run", *given, "--out", tmp_path / "run", "--final", *options, *FAST)
    assert run.returncode == 0, run.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    again = command("evaluate", "--run", tmp_path / "run", "--json", "--threads", 1)
    assert json.loads(again.stdout) == metrics["protocols"]
    model = pf.PDRec.load(tmp_path / "run" / "model", device="cpu")
    assert model.trained_on == model.data.fingerprint()
    plain = command("update", "--run", tmp_path / "run", "--data", train, "--out", tmp_path / "no")
    assert (plain.returncode, "give one of the new data" in plain.stderr) == (1, True)
    update = ("update", "--run", tmp_path / "run", "--no-final", *given, *options)
    new = command(*update, "--out", tmp_path / "new")
    assert new.returncode == 0, new.stderr
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["sets"] is not None
    again = command("evaluate", "--run", tmp_path / "new", "--json", "--threads", 1)
    assert json.loads(again.stdout) == metrics["protocols"]
    # What was trained on is not tested: validation and test the other way round.
    swapped = ("--data", valid, "--valid-file", train, "--test-file", test)
    seen = command("update", "--run", tmp_path / "run", *swapped, "--out", tmp_path / "no")
    assert (seen.returncode, "were trained on by the former run" in seen.stderr) == (1, True)


def test_what_the_command_refuses(files, tmp_path):
    train, valid, test = files
    options = ("run", "--data", train, "--out", tmp_path / "run", "--valid-file", valid)
    both = (*options, "--test-file", test)
    for arguments, message in (
        (options, "--test-file is missing"),
        ((*both, "--source", test), "--source has no place beside --valid-file"),
        ((*both, "--min-user", 3), "--min-user has no place beside --valid-file"),
        ((*both, "--limit-users", 3), "--limit-users has no place beside --valid-file"),
        ((*both, "--valid-from", 1, "--test-from", 2), "--valid-from and --test-from has no place"),
    ):
        result = command(*arguments)
        assert result.returncode == 1
        assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_split_comes_back_from_disk(parts, tmp_path):
    split = pf.given_split(*(pf.Interactions.from_arrays(*columns) for columns in parts))
    save_split(split, tmp_path / "split")
    again = load_split(tmp_path / "split", split.data)
    assert fingerprint_of(again) == fingerprint_of(split)
    assert again.report == split.report
    assert again.sets
    with pytest.raises(pf.CheckpointError, match="is a split of other data"):
        load_split(tmp_path / "split", split.train)
