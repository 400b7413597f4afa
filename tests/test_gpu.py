"""Whole models on a GPU against the same on a CPU; the kernels have tests of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.data import Split, leave_one_out, synthetic
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.diffusion.task import DiffusionTask
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.evaluation import evaluate
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import MODULES, PDRec
from pdrec_fast.training.task import PDRecTask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

HIDDEN = {"hidden": (24,), "batch_size": 64, "epochs": 3}
ENCODER = {"width": 16, "max_length": 20}


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic(300, 500, seed=1))


@pytest.fixture(scope="module")
def diffusion(split: Split) -> DiffRec:
    return DiffRec(**HIDDEN, lr=1e-2, device="cpu").fit(split, progress=False)


@pytest.fixture(scope="module")
def preferences(split: Split, diffusion: DiffRec) -> Preferences:
    return Preferences.infer(diffusion, split.train, top_m=10, n_draws=64, progress=False)


def diffusion_task(split: Split, device: str, **settings) -> DiffusionTask:
    model = DiffRec(device=device, **(HIDDEN | settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.denoiser = model._new_denoiser(split.train.n_items).to(model.device)
    return model.training_task(split.train)


def encoder_task(
    split: Split, preferences: Preferences, device, modules, encoder="sasrec", **options
) -> PDRecTask:
    model = PDRec(encoder, modules=modules, device=device, encoder_options=ENCODER, **options)
    model.encoder = model.new_encoder(split.train.n_items)
    return model.training_task(split.train, preferences)


@pytest.fixture
def no_waiting():
    """An error wherever the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("settings", [{}, {"prediction": "eps"}, {"normalize_input": True}])
def test_diffusion_losses_are_those_of_the_cpu(split, settings):
    tasks = [diffusion_task(split, device, **settings) for device in ("cpu", "cuda")]
    for epoch in range(3):
        on_cpu, on_gpu = (task.train_epoch(epoch).cpu() for task in tasks)
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-6)


def test_bf16_losses_are_close(split):
    wide, narrow = (
        diffusion_task(split, "cuda", precision=precision).train_epoch(0)
        for precision in ("fp32", "bf16")
    )
    torch.testing.assert_close(narrow, wide, rtol=3e-2, atol=1e-4)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("modules", [(), MODULES])
def test_recorded_steps_are_the_steps(split, preferences, modules, loss):
    plain, recorded = (
        encoder_task(split, preferences, "cuda", modules, cuda_graphs=graphs, loss=loss)
        for graphs in (False, True)
    )
    for epoch in range(3):
        expected, found = (task.train_epoch(epoch) for task in (plain, recorded))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert recorded.optimizer.state_dict()["state"][0]["step"] == 3 * len(found)


def test_recorded_steps_take_the_rates_of_their_schedule(split, preferences):
    settings = {
        "lr_schedule": "cosine",
        "warmup_steps": 4,
        "weight_decay": 0.1,
        "clip_norm": 0.1,
        "batch_size": 32,
        "epochs": 3,
    }
    plain, recorded = (
        encoder_task(split, preferences, "cuda", MODULES, cuda_graphs=graphs, **settings)
        for graphs in (False, True)
    )
    for epoch in range(3):
        expected, found = (task.train_epoch(epoch) for task in (plain, recorded))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("modules", [(), MODULES])
def test_encoder_losses_are_those_of_the_cpu(split, preferences, modules, encoder):
    tasks = [
        encoder_task(split, preferences, device, modules, encoder) for device in ("cpu", "cuda")
    ]
    for epoch in range(3):
        on_cpu, on_gpu = (task.train_epoch(epoch).cpu() for task in tasks)
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)


def test_no_step_of_diffusion_waits_for_the_gpu(split, no_waiting):
    task = diffusion_task(split, "cuda")
    torch.cuda.set_sync_debug_mode("default")  # an epoch's inputs are copied before its steps
    task.train_epoch(0)  # and kernels are compiled
    order = np.arange(len(task.rows))
    block = task.rows.epoch(order, torch.Generator(), task.device)
    steps = torch.zeros(len(block), dtype=torch.int64, device=task.device)
    torch.cuda.set_sync_debug_mode("error")
    task.step_losses(block, steps, 1).mean().backward()
    task.optimizer.step()


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_no_step_of_an_encoder_waits_for_the_gpu(split, preferences, encoder, no_waiting):
    torch.cuda.set_sync_debug_mode("default")
    trainer = encoder_task(split, preferences, "cuda", MODULES, encoder)
    trainer.train_epoch(0)
    batch = next(trainer.batches.epoch(np.arange(64), 1)).to(trainer.device)
    torch.cuda.set_sync_debug_mode("error")
    trainer.batch_loss(batch).backward()
    trainer.table_gradient.collect()
    trainer.optimizer.step()


def test_deterministic_algorithms_repeat_the_model(split, preferences, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        models = [diffusion_task(split, "cuda") for _ in range(2)]
        assert torch.equal(*(task.train_epoch(0) for task in models))
        first, again = (encoder_task(split, preferences, "cuda", MODULES) for _ in range(2))
        for epoch in range(2):
            assert torch.equal(first.train_epoch(epoch), again.train_epoch(epoch))
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first.encoder.parameters(), again.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_preferences_are_those_of_the_cpu(split, diffusion, preferences, tmp_path):
    diffusion.save(tmp_path / "model")
    on_gpu = DiffRec.load(tmp_path / "model", device="cuda")
    found = Preferences.infer(on_gpu, split.train, top_m=10, n_draws=64, progress=False)
    np.testing.assert_allclose(
        found.observed_scores, preferences.observed_scores, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        found.threshold_scores, preferences.threshold_scores, rtol=1e-4, atol=1e-6
    )
    # Scores closer than rounding may change places.
    for name in ("top_items", "negatives"):
        same = getattr(found, name) == getattr(preferences, name)
        assert same.mean() > 0.99, name


def test_metrics_are_those_of_the_cpu(split, diffusion, preferences, tmp_path):
    diffusion.save(tmp_path / "diffusion")
    model = PDRec(epochs=2, device="cpu", encoder_options=ENCODER)
    model.fit(split, preferences, progress=False).save(tmp_path / "model")
    pairs = [
        (diffusion, DiffRec.load(tmp_path / "diffusion", device="cuda")),
        (model, PDRec.load(tmp_path / "model", device="cuda")),
    ]
    for on_cpu, on_gpu in pairs:
        wanted, found = (evaluate(scorer, split) for scorer in (on_cpu, on_gpu))
        for protocol, splits in wanted.items():
            for name, values in splits.items():
                assert found[protocol][name] == pytest.approx(values, abs=2e-3)
    users = split.data.user_ids[:5]
    np.testing.assert_array_equal(model.recommend(users, 3)[0], pairs[1][1].recommend(users, 3)[0])


def test_a_run_begun_on_a_gpu_ends_on_a_cpu(split, tmp_path):
    config = pf.RunConfig.from_preset("default")
    config = replace(
        config,
        diffusion=replace(config.diffusion, epochs=2, hidden=(24,)),
        pdrec=replace(config.pdrec, epochs=2),
        encoder_options=ENCODER,
    )
    begun = pf.run(split.data, config, out=tmp_path / "run", device="cuda", progress=False)
    assert begun.metrics["environment"]["device"] == torch.cuda.get_device_name()
    (tmp_path / "run" / "metrics.json").unlink()
    ended = pf.run(split.data, config, out=tmp_path / "run", device="cpu", progress=False)
    for protocol, splits in begun.metrics["protocols"].items():
        for name, values in splits.items():
            assert ended.metrics["protocols"][protocol][name] == pytest.approx(values, abs=5e-3)
