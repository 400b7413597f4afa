"""The command export, and the Python of docs/serving.md on what it wrote."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from tests.test_pipeline import command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
SHORT = {
    "pdrec.epochs": 2,
    "diffusion.epochs": 2,
    "diffusion.hidden": (8,),
    "encoder.width": 8,
    "encoder.blocks": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the default preset whose guides both add something."""
    folder = tmp_path_factory.mktemp("export") / "run"
    data = pf.synthetic(n_users=80, n_items=120, seed=0)
    pf.run(
        data,
        pf.with_settings(pf.RunConfig.from_preset("default"), SHORT),
        out=folder,
        progress=False,
    )
    model = pf.PDRec.load(folder / "model")
    guides = {
        "guide": pf.DiffRec.load(folder / "diffusion"),
        "linear": pf.LinearDenoiser().fit(pf.leave_one_out(data)),
    }
    model.fusion = pf.Fusion(guides, {"guide": pf.Share(0.3), "linear": pf.Share(2.0)})
    model.save(folder / "model")
    return folder


def test_a_run_is_exported_and_the_page_reads_it(run, tmp_path, monkeypatch, capsys):
    for needed in ("onnxscript", "onnxruntime", "faiss"):
        pytest.importorskip(needed)
    out = tmp_path / "exported"
    printed = command("export", "--run", run, "--out", out, "-k", "7").stdout
    assert "sasrec+fusion: 120 items, vectors of 17;" in printed
    assert "the vectors lack what linear adds" in printed
    card = json.loads((out / "card.json").read_text())
    assert card["metrics"] == json.loads((run / "metrics.json").read_text())["protocols"]
    assert (card["top_k"], card["vectors_are_complete"]) == (7, False)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    names = {}
    exec(blocks[0], names)
    model = pf.PDRec.load(run / "model")
    items = torch.from_numpy(names["items"])
    histories = pf.Histories(
        names["items"][names["items"] > 0].astype(np.int32) - 1,
        None,
        np.zeros(2, np.int64),
        np.array([0, 3]),
        np.array([3, 7]),
        120,
    )
    scores = model.scores(histories)
    seen = torch.zeros(2, 121, dtype=torch.bool).scatter(1, items, True)[:, 1:]
    best = scores.masked_fill(seen, -torch.inf).topk(7)
    assert names["rows"].tolist() == best.indices.tolist()
    np.testing.assert_allclose(names["scores"], best.values, rtol=1e-4, atol=1e-5)
    exec(blocks[1], names)
    assert names["top_rows"].shape == (1, 7)
    exec(blocks[2], names)
    assert names["rows"].shape == (2, 10)
    assert not {3, 5} & set(names["rows"][0].tolist())


def test_without_onnx_and_fusion(run, tmp_path):
    out = tmp_path / "exported"
    printed = command("export", "--run", run, "--out", out, "--no-onnx", "--no-fusion").stdout
    assert "lack" not in printed
    assert not list(out.glob("*.onnx"))
    assert json.loads((out / "card.json").read_text())["shares"] == []


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    done = command("export", "--run", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no run is here" in done.stderr
    monkeypatch.setattr("pdrec_fast.export.programs.find_spec", lambda name: None)
    with pytest.raises(pf.MissingExtraError, match=r"pdrec_fast\[onnx\].*--no-onnx"):
        pf.export.programs.check_onnx()
