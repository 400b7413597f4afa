"""A run that is given again with more epochs ends like one that had them from the start."""

import json
import shutil

import pytest
import torch

import pdrec_fast as pf
from tests.pipeline.conftest import fast_config


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def checks(found, expected):
    for key in ("protocols", "config", "epochs", "fusion", "popularity"):
        assert found.metrics[key] == expected.metrics[key]
    histories = [result.metrics["history"]["encoder"] for result in (found, expected)]
    for history in histories:
        for key in ("seconds", "elapsed"):
            history.pop(key)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("final", [False, True])
def test_the_encoder_goes_on_to_the_same_model(data, tmp_path, final):
    out = tmp_path / "run"
    few, many = (fast_config(final=final, pdrec__epochs=n, pdrec__patience=9) for n in (2, 5))
    pf.run(data, few, out=out, progress=False)
    seen = []

    class Watch(pf.Callback):
        def on_epoch_end(self, name, history):
            seen.append((name, history.epochs))

    found = pf.run(data, many, out=out, progress=False, callbacks=[Watch()])
    expected = pf.run(data, many, progress=False)
    assert same_weights(found.model.encoder, expected.model.encoder)
    checks(found, expected)
    own = [epochs for name, epochs in seen if name == "sasrec+fusion"]
    assert own == [2, 3, 4, 5]
    assert "TI-DiffRec" not in dict(seen)
    assert json.loads((out / "run.json").read_text())["config"]["pdrec"]["epochs"] == 5


def test_the_diffusion_model_alone_goes_on(data, tmp_path):
    few, many = (
        pf.with_settings(
            pf.RunConfig(encoder="diffusion"),
            {"diffusion.epochs": n, "diffusion.hidden": 8, "diffusion.select_by": "full"},
        )
        for n in (2, 4)
    )
    pf.run(data, few, out=tmp_path / "run", progress=False)
    found = pf.run(data, many, out=tmp_path / "run", progress=False)
    expected = pf.run(data, many, progress=False)
    assert same_weights(found.diffusion.denoiser, expected.diffusion.denoiser)
    assert found.metrics["protocols"] == expected.metrics["protocols"]


def test_killed_while_it_goes_on(data, tmp_path):
    few, many = (fast_config(modules=(), pdrec__epochs=n, pdrec__patience=9) for n in (2, 5))
    pf.run(data, few, out=tmp_path / "run", progress=False)

    class Killed(pf.Callback):
        def on_epoch_end(self, name, history):
            if history.epochs == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pf.run(data, many, out=tmp_path / "run", progress=False, callbacks=[Killed()])
    found = pf.run(data, many, out=tmp_path / "run", progress=False)
    expected = pf.run(data, many, progress=False)
    assert same_weights(found.model.encoder, expected.model.encoder)


def test_what_cannot_go_on_says_why_and_stays(data, tmp_path):
    def refused(config, longer, match):
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        before = pf.run(data, config, out=out, progress=False)
        with pytest.raises(pf.CheckpointError, match=match):
            pf.run(data, longer, out=out, progress=False)
        again = pf.run(data, config, out=out, progress=False)
        assert again.metrics["protocols"] == before.metrics["protocols"]
        return out

    plain = {"modules": (), "pdrec__patience": 9}
    few, many = ({**plain, "pdrec__epochs": n} for n in (2, 5))
    cosine = {"pdrec__lr_schedule": "cosine", "pdrec__warmup_steps": 1}
    match = r"pdrec\.epochs cannot grow from 2 to 5 here: the cosine schedule"
    out = refused(fast_config(**few, **cosine), fast_config(**many, **cosine), match)
    assert not (out / "model.checkpoint").exists()
    every = {"pdrec__eval_every": 4}
    refused(fast_config(**few, **every), fast_config(**many, **every), "no checkpoint was kept")
    early = {"modules": (), "pdrec__patience": 1, "pdrec__epochs": 30, "pdrec__lr": 1e-9}
    longer = early | {"pdrec__epochs": 40}
    match = r"its training ended early \(pdrec\.patience\).* train on with pdrec-fast update"
    out = refused(fast_config(**early), fast_config(**longer), match)
    assert not (out / "model.checkpoint").exists()
    # Anything else that differs is another run, and fewer epochs are as well.
    match = (
        r"holds a run with other config\.pdrec\.lr .*, config\.pdrec\.epochs \(2 there, 5 here\)"
    )
    refused(fast_config(**few), fast_config(**many, pdrec__lr=1e-3), match)
    refused(fast_config(**many), fast_config(**few), r"holds a run with other config\.pdrec\.ep")


def test_a_run_without_its_checkpoint_cannot_go_on(data, tmp_path):
    few, many = (fast_config(modules=(), pdrec__epochs=n) for n in (2, 5))
    pf.run(data, few, out=tmp_path / "run", progress=False)
    shutil.rmtree(tmp_path / "run" / "model.checkpoint")
    with pytest.raises(pf.CheckpointError, match="or was deleted"):
        pf.run(data, many, out=tmp_path / "run", progress=False)
