"""What the caller has set in torch, NumPy and Python changes no result, and is found as it was."""

import copy
import multiprocessing
import os
import pickle
import random
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pdrec_fast as pf

Arrays = list[np.ndarray]
SMALL = {"width": 8, "max_length": 12}


class Padded(nn.Module):
    """A model that draws from torch's own generator: weights, and dropout in training."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        kind = {"dtype": torch.float32}
        self.item_embedding = nn.Embedding(n_items + 1, 8, **kind)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(8, 8, **kind)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.drop(self.item_embedding(ids)))


def own_encoder(n_items: int) -> pf.PaddedEncoder:
    return pf.PaddedEncoder(Padded(n_items), max_length=12)


SPLIT = pf.leave_one_out(pf.synthetic(40, 130, seed=2))
SETTINGS: dict[str, Any] = {"modules": (), "epochs": 2, "select_by": "full", "seed": 3}


def fitted(encoder: Any, seed: int = 3, **settings: Any) -> pf.PDRec:
    options = SMALL if isinstance(encoder, str) else None
    settings = SETTINGS | {"seed": seed} | settings
    return pf.PDRec(encoder, encoder_options=options, **settings).fit(SPLIT, progress=False)


def weights(module: nn.Module) -> Arrays:
    return [tensor.detach().numpy() for tensor in module.state_dict().values()]


def diffusion() -> pf.DiffRec:
    settings: dict[str, Any] = {"hidden": (8,), "select_by": "full", "precision": "fp32"}
    return pf.DiffRec(epochs=2, **settings).fit(SPLIT, progress=False)


def fused() -> pf.PDRec:
    """An encoder with all modules, guided by a diffusion model and a linear one."""
    guide = diffusion()
    preferences = pf.Preferences.infer(guide, SPLIT.train, n_draws=16, progress=False)
    settings = SETTINGS | {"modules": ("hbr", "dpa", "nns", "fusion")}
    model = pf.PDRec("sasrec", encoder_options=SMALL, **settings)
    guides = {"diffusion": guide, "linear": pf.LinearDenoiser().fit(SPLIT)}
    model.fit(SPLIT, preferences, guides=guides, progress=False)
    model.fusion = pf.Fusion(guides, {"diffusion": pf.Share(0.5, "log"), "linear": pf.Share(0.3)})
    return model


def figures(results: pf.Results) -> np.ndarray:
    by_split = [metrics for splits in results.values() for metrics in splits.values()]
    return np.array([value for metrics in by_split for value in metrics.values()])


def guided() -> Arrays:
    """Everything that a model can do."""
    model = fused()
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = pf.PDRec.load(f"{folder}/model")
    ids, logits = loaded.recommend(SPLIT.data.user_ids[:5], 4)
    assert loaded.fusion is not None
    guide = loaded.fusion.guides["diffusion"].denoiser
    return [*weights(guide), *weights(model.encoder), ids, logits, figures(model.evaluate(SPLIT))]


def whole_run() -> Arrays:
    config = pf.RunConfig.from_preset("default", modules=("hbr",))
    config = replace(
        config,
        n_draws=8,
        diffusion=replace(config.diffusion, epochs=1, hidden=(8,), precision="fp32"),
        pdrec=replace(config.pdrec, epochs=1),
    )
    result = pf.run(SPLIT.data, config, progress=False)
    return [figures(result.metrics["protocols"]), figures(result.metrics["diffusion"])]


def other_diffusion() -> Arrays:
    """What the general reverse process computes, and noise of every kind."""
    alike: dict[str, Any] = {"epochs": 1, "select_by": "full", "precision": "fp32", "hidden": (8,)}
    general = {"prediction": "eps", "sampling_steps": 2, "sampling_noise": True, "steps": 3}
    masked = {"likelihood": "multinomial", "noise": "mask", "dropout": 0.5}
    models = [pf.DiffRec(**alike, normalize_input=True, **general), pf.DiffRec(**alike, **masked)]
    fits = [model.fit(SPLIT, progress=False) for model in models]
    return [model.scores(SPLIT.test.histories).numpy() for model in fits]


def other_guides() -> Arrays:
    """What takes the place of the diffusion model, from disk as well."""
    alike: dict[str, Any] = {"epochs": 2, "select_by": "full", "hidden": (8,), "device": "cpu"}
    models: list[Any] = [
        pf.Codigem(**alike).fit(SPLIT, progress=False),
        pf.LatentDiffRec(**alike, latent=8, weighting="rank").fit(SPLIT, progress=False),
        pf.ItemKNN().fit(SPLIT),
    ]
    found = [model.scores(SPLIT.test.histories).numpy() for model in models]
    with tempfile.TemporaryDirectory() as folder:
        for number, model in enumerate(models):
            model.save(f"{folder}/{number}")
            loaded = type(model).load(f"{folder}/{number}", device="cpu")
            found.append(loaded.scores(SPLIT.test.histories).numpy())
    return found


JOBS: dict[str, Callable[[], Arrays]] = {
    "sasrec": lambda: weights(fitted("sasrec", loss="softmax", learn_temperature=True).encoder),
    "gru4rec": lambda: weights(fitted("gru4rec", loss="corpus_softmax").encoder),
    "cl4srec": lambda: weights(fitted("cl4srec", loss="shared_softmax").encoder),
    "own": lambda: weights(fitted(own_encoder).encoder),
    "guided": guided,
    "other diffusion": other_diffusion,
    "other guides": other_guides,
    "run": whole_run,
}


@pytest.fixture(scope="module")
def alone() -> dict[str, Arrays]:
    return {name: job() for name, job in JOBS.items()}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def errors_for_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(1)


WORLDS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": deterministic,
    "default device meta": lambda: default_device("meta"),
    "device context meta": lambda: torch.device("meta"),
    "warnings are errors": errors_for_warnings,
    "numpy raises": lambda: np.errstate(all="raise"),
    "two threads": two_threads,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
}


def state_of_the_world() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the caller's own
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (name, keys.tolist(), *rest),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "errors": np.geterr(),
        "filters": list(warnings.filters),
    }


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("world", WORLDS)
def test_results_and_world_are_as_alone(world: str, job: str, alone: dict[str, Arrays]) -> None:
    with WORLDS[world]():
        before = state_of_the_world()
        found = JOBS[job]()
        assert state_of_the_world() == before
    assert len(found) == len(alone[job])
    for array, expected in zip(found, alone[job], strict=True):
        if world == "two threads" and array.dtype != object:
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3)  # other sums
        else:
            np.testing.assert_array_equal(array, expected)


@contextmanager
def drawing_meanwhile() -> Iterator[None]:
    """Another thread of the caller's draws from torch's generator all the time."""
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.rand(1)

    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(draw)
        try:
            yield
        finally:
            stop.set()
    thread.result()


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "cl4srec", "own", "diffusion"])
def test_fits_in_threads_are_as_alone(kind: str) -> None:
    def fit(seed: int) -> Arrays:
        if kind == "diffusion":
            settings: dict[str, Any] = {"hidden": (8,), "precision": "fp32", "select_by": "full"}
            model = pf.DiffRec(epochs=2, seed=seed, **settings).fit(SPLIT, progress=False)
            return weights(model.denoiser)
        return weights(fitted(own_encoder if kind == "own" else kind, seed).encoder)

    alone = [fit(seed) for seed in range(3)]
    # An encoder that draws from torch's own generator itself cannot be told from the caller.
    others = nullcontext() if kind == "own" else drawing_meanwhile()
    with others, ThreadPoolExecutor(3) as pool:
        together = list(pool.map(fit, range(3)))
    for found, expected in zip(together, alone, strict=True):
        for array, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, wanted)


def total(model: Any) -> float:
    return float(model.scores(SPLIT.test.histories).sum())


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    model = fused()
    assert model.fusion is not None
    named = {"fused": model, "own": fitted(own_encoder), "popularity": pf.Popularity(SPLIT.train)}
    return named | {"prepared": model.prepared(), **model.fusion.guides}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_score_alike(again: Callable[[Any], Any], models: dict[str, Any]) -> None:
    for name, model in models.items():
        assert total(again(model)) == total(model), name
    data, preferences = again(SPLIT), again(pf.Preferences.infer(models["own"], SPLIT.train))
    assert data.train.fingerprint() == SPLIT.train.fingerprint()
    settings = SETTINGS | {"modules": ("hbr", "nns"), "epochs": 1}
    pf.PDRec("sasrec", encoder_options=SMALL, **settings).fit(data, preferences, progress=False)


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_other_processes_score_alike(kind: str, models: dict[str, Any]) -> None:
    if kind not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {kind}")
    with two_threads():
        torch.rand(600, 600) @ torch.rand(600, 600)  # GNU's OpenMP has its threads now
        total(models["fused"])
        with multiprocessing.get_context(kind).Pool(1) as pool:
            found = pool.map_async(total, [models["fused"], models["own"]]).get(timeout=120)
    assert found == pytest.approx([total(models["fused"]), total(models["own"])], rel=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_fits_while_the_parent_does() -> None:
    """The lock that the parent's thread holds is free in the child."""
    expected = weights(fitted(own_encoder).encoder)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(lambda: [fitted(own_encoder) for _ in range(3)])
        with multiprocessing.get_context("fork").Pool(1) as children:
            found = children.apply_async(own_weights).get(timeout=120)
        busy.result()
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, wanted)


def own_weights() -> Arrays:
    return weights(fitted(own_encoder).encoder)
