"""What the caller has set in torch, NumPy and Python changes no result, and is found as it was."""

import copy
import multiprocessing
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.isolation import drawing_from

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


def make_data() -> pf.Split:
    return pf.leave_one_out(pf.synthetic(40, 130, seed=2))


SPLIT = make_data()
SETTINGS: dict[str, Any] = {"modules": (), "epochs": 2, "select_by": "full", "seed": 3}


def fitted(encoder: Any, seed: int = 3, **settings: Any) -> pf.PDRec:
    options = SMALL if isinstance(encoder, str) else None
    settings = SETTINGS | {"seed": seed} | settings
    return pf.PDRec(encoder, encoder_options=options, **settings).fit(SPLIT, progress=False)


def weights(module: nn.Module) -> Arrays:
    return [tensor.detach().numpy() for tensor in module.state_dict().values()]


def diffusion() -> pf.DiffRec:
    settings: dict[str, Any] = {"hidden": (8,), "epochs": 2, "select_by": "full", "precision": "fp32"}
    return pf.DiffRec(**settings).fit(SPLIT, progress=False)


def guided() -> Arrays:
    """Everything at once: a diffusion model, its preferences, an encoder with all modules."""
    guide = diffusion()
    preferences = pf.Preferences.infer(guide, SPLIT.train, n_draws=16, progress=False)
    settings = SETTINGS | {"modules": ("hbr", "dpa", "nns", "fusion")}
    model = pf.PDRec("sasrec", encoder_options=SMALL, **settings)
    guides = {"diffusion": guide, "linear": pf.LinearDenoiser().fit(SPLIT)}
    model.fit(SPLIT, preferences, guides=guides, progress=False)
    model.fusion = pf.Fusion(guides, {"diffusion": pf.Share(0.5, "log"), "linear": pf.Share(0.3)})
    ids, logits = model.recommend(SPLIT.data.user_ids[:5], 4)
    found = model.evaluate(SPLIT)
    figures = [value for by_split in found.values() for f in by_split.values() for value in f.values()]
    return [*weights(guide.denoiser), *weights(model.encoder), ids, logits, np.array(figures)]


def other_diffusion() -> Arrays:
    """What the general reverse process computes, and noise of every kind."""
    model = pf.DiffRec(
        hidden=(8, 6), epochs=1, select_by="full", prediction="eps", sampling_steps=2,
        sampling_noise=True, normalize_input=True, steps=3, precision="fp32",
    ).fit(SPLIT, progress=False)
    masked = pf.DiffRec(
        hidden=(8,), epochs=1, select_by="full", likelihood="multinomial", noise="mask",
        precision="fp32",
    ).fit(SPLIT, progress=False)
    found = [model.scores(SPLIT.test.histories), masked.scores(SPLIT.test.histories)]
    return [scores.numpy() for scores in found]


JOBS: dict[str, Callable[[], Arrays]] = {
    "sasrec": lambda: weights(fitted("sasrec", loss="softmax", learn_temperature=True).encoder),
    "gru4rec": lambda: weights(fitted("gru4rec", loss="corpus_softmax").encoder),
    "cl4srec": lambda: weights(fitted("cl4srec", loss="shared_softmax").encoder),
    "own": lambda: weights(fitted(own_encoder).encoder),
    "guided": guided,
    "other diffusion": other_diffusion,
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
    for array, expected in zip(found, alone[job], strict=True):
        np.testing.assert_array_equal(array, expected)
