"""The load generator, tiny, on a service of its own."""

import json

import pytest

import pdrec_fast as pf
from bench import serving

pytest.importorskip("uvicorn", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("fastapi", reason="pip install 'pdrec_fast[serve]'")


def test_a_saved_model_is_started_and_loaded(tmp_path, capsys):
    data = pf.synthetic(40, 50, seed=0)
    options = {"width": 8, "blocks": 1}
    model = pf.PDRec("sasrec", encoder_options=options, modules=(), epochs=1)
    model.fit(data, progress=False).save(tmp_path / "model")
    out = tmp_path / "serving.jsonl"
    arguments = [str(tmp_path / "model"), "--concurrency", "1,3", "--seconds", "0.3"]
    serving.main([*arguments, "--out", str(out)])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["clients"] for line in found] == [1, 3]
    for line in found:
        assert line["requests"] > 0
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        assert 1 <= line["requests_per_batch"] <= line["clients"]
