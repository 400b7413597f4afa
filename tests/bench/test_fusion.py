"""The fusion of kept runs, from a file on disk to the lines of figures."""

import json

import pytest

import pdrec_fast as pf
from bench import fusion

pytest.importorskip("scipy")


def test_a_kept_run_is_fused_once(tmp_path, capsys, monkeypatch):
    data = pf.synthetic(150, 200, seed=0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    records = zip(data.record_users, data.items, data.timestamps, strict=True)
    lines += [f"{user}\t{item}\t{when}" for user, item, when in records]
    (tmp_path / "tiny.inter").write_text("\n".join(lines) + "\n")
    config = pf.with_settings(
        pf.RunConfig.from_preset("default", modules=()), {"pdrec.epochs": 2, "encoder.width": 8}
    )
    short = pf.with_settings(config, {"diffusion.epochs": 3, "diffusion.hidden": (8,)})
    read = pf.Interactions.from_file(tmp_path / "tiny.inter")
    pf.run(read, config, out=tmp_path / "runs" / "tiny-sasrec-0", progress=False)
    out = tmp_path / "fusion.jsonl"
    arguments = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    monkeypatch.setattr(pf.RunConfig, "from_preset", lambda *_, **__: short)
    arguments += ["--threads", "1", "--guides", "linear", "guide+linear"]
    fusion.main(arguments)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["guides"] for line in found] == ["linear", "guide+linear"]
    for line in found:
        assert line["run"] == "tiny-sasrec-0"
        assert set(line["shares"]) == set(line["guides"].split("+"))
        for protocol in ("paper", "full"):
            test = line["results"][protocol]["test"]["ndcg@10"]
            assert 0 < test["alone"] < test["fused"]  # two epochs leave much to add
            assert 0 <= test["p"] <= 1
    assert capsys.readouterr().out.count("tiny-sasrec-0") == 2
    assert (tmp_path / "runs" / "tiny-diffusion-0").is_dir()
    fusion.main(arguments)
    assert len(out.read_text().splitlines()) == 2
