"""Both sides of the comparison with RecTools train on one split and are judged alike."""

import json

import numpy as np
import pytest

import pdrec_fast as pf
from bench.head_to_head import first_users, main


@pytest.fixture
def file(tmp_path):
    data = pf.synthetic(n_users=60, n_items=150, seed=1)
    lines = (
        f"{user}\t{item}\t{time:.0f}"
        for user, item, time in zip(
            data.user_ids[data.record_users],
            data.item_ids[data.items],
            data.timestamps,
            strict=True,
        )
    )
    path = tmp_path / "small.inter"
    header = "user_id:token\titem_id:token\ttimestamp:float"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize("side", ["ours", "rectools"])
def test_a_side_writes_its_epochs(side, file, tmp_path):
    if side == "rectools":
        for needed in ("rectools", "pytorch_lightning"):
            pytest.importorskip(needed, reason="pip install 'pdrec_fast[rectools]'")
    out = tmp_path / "lines.jsonl"
    told = ["--side", side, "--data", str(file), "--out", str(out), "--loss", "softmax"]
    sizes = ["--width", "8", "--length", "9", "--negatives", "3", "--users", "50"]
    assert main([*told, *sizes, "--epochs", "3", "--every", "2"]) == 0
    head, *epochs, summary = map(json.loads, out.read_text().splitlines())
    assert (head["side"], head["users"], head["settings"]["negatives"]) == (side, 50, 3)
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert ["valid" in line for line in epochs] == [False, True, True]
    assert 0 <= epochs[2]["test"]["ndcg@10"] <= epochs[2]["test"]["hr@10"] <= 1
    seconds = [line["seconds"] for line in epochs]
    assert epochs[2]["elapsed"] == pytest.approx(sum(seconds))
    assert summary["median_seconds"] == sorted(seconds)[1]


def test_no_epoch_begins_after_the_budget(file, capsys):
    main(["--side", "ours", "--data", str(file), "--loss", "bce", "--width", "8", "--budget", "0"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1]
    assert "test" in lines[1]


def test_first_users_keep_their_records_and_all_items():
    data = pf.synthetic(n_users=20, n_items=120, seed=0)
    first = first_users(data, 7)
    assert (first.n_users, first.n_items) == (7, 120)
    assert np.array_equal(first.items, data.items[: data.indptr[7]])
