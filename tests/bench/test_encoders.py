"""The trials of encoders, from a file on disk to the table and the figure."""

import json

import pytest

import pdrec_fast as pf
from bench import encoders

pytest.importorskip("scipy")


def test_trials_within_a_budget_and_the_best_one_tested(tmp_path, capsys, monkeypatch):
    data = pf.synthetic(150, 200, seed=0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    records = zip(data.record_users, data.items, data.timestamps, strict=True)
    lines += [f"{user}\t{item}\t{when}" for user, item, when in records]
    (tmp_path / "toy.inter").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(encoders, "MOST_EPOCHS", 2)
    monkeypatch.setattr(encoders, "VALIDATION_USERS", 100)
    for model in ("linear", "sasrec", "bert4rec"):
        monkeypatch.setitem(encoders.SETTINGS, model, encoders.SETTINGS[model][:2])
    out, figures = tmp_path / "encoders.jsonl", tmp_path / "figures"
    place = ["run", "--data", str(tmp_path), "--runs", str(tmp_path), "--out", str(out)]
    place += ["--only", "toy", "--models"]
    encoders.main([*place, "sasrec"])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["model"], line.get("trial", "best")) for line in found] == [
        ("linear", 0),
        ("linear", 1),
        ("linear", "best"),
        ("sasrec", 0),
        ("sasrec", 1),
        ("sasrec", "best"),
    ]
    first, second, best = found[3:]
    for trial in (first, second):
        assert len(trial["curve"]) == trial["epochs"] == 2
        assert trial["valid"] == max(value for _, value in trial["curve"])
    assert best["valid"] == max(first["valid"], second["valid"])
    assert best["settings"] == (first, second)[best["best"]]["settings"]
    ndcg = best["results"]["full"]["ndcg@10"]
    assert 0 < ndcg["alone"] < ndcg["fused"]  # two epochs leave much to add
    # What is there is not done again, and where nothing is left no second trial begins.
    spent = encoders.DATA["toy"].budget * 0.7
    line = found[3] | {"model": "bert4rec", "seconds": spent}
    with out.open("a") as stream:
        print(json.dumps(line), file=stream)
    (tmp_path / "toy-sasrec-0").rename(tmp_path / "toy-bert4rec-0")
    encoders.main([*place, "sasrec", "bert4rec"])
    assert [json.loads(line)["model"] for line in out.read_text().splitlines()[7:]] == ["bert4rec"]
    capsys.readouterr()
    pytest.importorskip("matplotlib")
    encoders.main(["show", "--out", str(out), "--figures", str(figures)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert {row.split(" | ")[0] for row in rows} == {"| linear", "| sasrec", "| bert4rec"}
    values = [float(row.split(" | ")[6]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert "bert4rec" in (figures / "toy.svg").read_text()
