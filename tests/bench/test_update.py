"""The three runs of the update's benchmark, from a file on disk to its lines."""

import json

import pdrec_fast as pf
from bench import update


def test_three_runs_of_data_cut_at_a_date(tmp_path, capsys):
    data = pf.synthetic(150, 250, seed=0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    records = zip(data.record_users, data.items, data.timestamps, strict=True)
    lines += [f"{user}\t{item}\t{when}" for user, item, when in records]
    (tmp_path / "tiny.inter").write_text("\n".join(lines) + "\n")
    out = tmp_path / "update.jsonl"
    arguments = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    arguments += ["--only", "tiny", "--threads", "1", "--set", "pdrec.epochs=2", "encoder.width=8"]
    arguments += ["diffusion.epochs=3", "diffusion.hidden=8"]
    assert update.main(arguments) == 0
    found = {line["how"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert found.keys() == {"old", "scratch", "update"}
    n_old, n_all = (found[how]["records"]["records"] for how in ("old", "update"))
    assert 0.85 * n_all < n_old <= 0.9 * n_all
    assert found["scratch"]["records"]["records"] == n_all == data.n_records
    results = [line["results"] for line in found.values()]
    assert all(0 < each[p]["ndcg@10"] < 1 for each in results for p in ("paper", "full"))
    assert results[1] != results[2]
    assert capsys.readouterr().out.count("tiny") == 3
    update.main(arguments)
    assert len(out.read_text().splitlines()) == 3
