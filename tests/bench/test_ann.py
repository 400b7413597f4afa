"""The benchmark of item indexes, tiny, from the command to its lines."""

import json

import pytest

pytest.importorskip("faiss", reason="pip install 'pdrec_fast[faiss]'")
from bench import ann


def test_every_kind_is_measured_against_products(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ann, "N_QUERIES", 128)
    out = tmp_path / "ann.jsonl"
    ann.main(["--sizes", "1500", "-k", "5", "--out", str(out)])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["kind"] for line in found] == ["flat", "hnsw", "ivfpq"]
    for line in found:
        assert (line["items"], line["width"], line["k"]) == (1500, 128, 5)
        assert line["alone_ms"] > 0
        assert line["recall"] >= (1.0 if line["kind"] == "flat" else 0.8)
    assert 0 == found[0]["bytes"] < found[2]["bytes"] < found[1]["bytes"]
