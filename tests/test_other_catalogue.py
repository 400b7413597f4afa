"""Histories and splits of another file than a model was fitted on are refused, not misread."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pdrec_fast as pf

TINY: dict[str, Any] = {"epochs": 1, "select_by": "full"}
ENCODER: dict[str, Any] = {"encoder_options": {"width": 8, "max_length": 9}}


def data_of(seed: int, n_items: int = 60) -> pf.Interactions:
    """20 users and as many items as asked for, whose ids depend on the seed."""
    rng = np.random.default_rng(seed)
    items = np.concatenate([np.arange(n_items), rng.integers(n_items, size=60)]) + 1000 * seed
    return pf.Interactions.from_arrays(np.arange(n_items + 60) % 20, items, np.arange(len(items)))


OWN = pf.leave_one_out(data_of(1))
OTHERS = {"as many items": pf.leave_one_out(data_of(2)), "fewer": pf.leave_one_out(data_of(1, 50))}


class Zeros:
    """A scorer of a user's own that knows of no catalogue."""

    def scores(self, histories: pf.Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        return torch.zeros(len(histories), histories.n_items if items is None else items.shape[1])


def plain(**settings: Any) -> pf.PDRec:
    return pf.PDRec("sasrec", **{"modules": (), **TINY, **ENCODER, **settings})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("models")
    diffusion = pf.DiffRec(hidden=(4,), precision="fp32", **TINY).fit(OWN, progress=False)
    linear, popularity = pf.LinearDenoiser().fit(OWN), pf.Popularity(OWN.train)
    knn = pf.ItemKNN().fit(OWN)
    codigem = pf.Codigem(hidden=(4,), **TINY).fit(OWN, progress=False)
    latent = pf.LatentDiffRec(latent=4, hidden=(4,), **TINY).fit(OWN, progress=False)
    for name, each in {"knn": knn, "codigem": codigem, "latent": latent}.items():
        each.save(folder / name)
    model = plain().fit(OWN, progress=False)
    model.fusion = pf.Fusion(
        {"d": diffusion, "l": linear, "p": popularity}, {name: pf.Share(0.1) for name in "dlp"}
    )
    model.save(folder / "model")
    diffusion.save(folder / "diffusion")
    loaded = pf.PDRec.load(folder / "model")
    assert loaded.fusion is not None
    return {
        "model": model,
        "prepared": model.prepared(),
        "diffusion": diffusion,
        "linear": linear,
        "popularity": popularity,
        "loaded": loaded,
        "knn": knn,
        "codigem": codigem,
        "latent": latent,
        "loaded knn": pf.ItemKNN.load(folder / "knn"),
        "loaded codigem": pf.Codigem.load(folder / "codigem"),
        "loaded latent": pf.LatentDiffRec.load(folder / "latent"),
        "loaded diffusion": pf.DiffRec.load(folder / "diffusion"),
        "loaded linear": loaded.fusion.guides["l"],
        "loaded popularity": loaded.fusion.guides["p"],
        "pickled": pickle.loads(pickle.dumps(diffusion)),
        "copied": copy.deepcopy(model),
    }


@pytest.mark.parametrize("other", OTHERS)
def test_no_model_scores_histories_of_another_catalogue(other: str, models: dict[str, Any]) -> None:
    split = OTHERS[other]
    histories = split.data.histories()
    for model in models.values():
        with pytest.raises(pf.DataError, match="index both by the same catalogue"):
            model.scores(histories)
        with pytest.raises(pf.DataError, match="index both by the same catalogue"):
            pf.evaluate(model, split, protocols=["full"], on=["test"])
        again = pf.leave_one_out(data_of(1))  # the same file, read once more
        pf.evaluate(model, again, protocols=["full"], on=["test"])


ENTRIES: dict[str, Callable[[dict[str, Any], pf.Split], Any]] = {
    "user_vectors": lambda m, s: m["diffusion"].user_vectors(s.data.histories()),
    "infer": lambda m, s: pf.Preferences.infer(m["diffusion"], s.train, progress=False),
    "fuse": lambda m, s: replace_modules(m["model"]).fuse({"z": Zeros()}, s, progress=False),
    "guides": lambda m, s: plain(modules=("fusion",)).fit(
        s, guides={"d": m["diffusion"]}, progress=False
    ),
    "choose_shares": lambda m, s: pf.choose_shares(m["model"], {"z": Zeros()}, s, progress=False),
    "choose_shares of a guide": lambda m, s: pf.choose_shares(
        Zeros(), {"d": m["loaded diffusion"]}, s, progress=False
    ),
    "preferences": lambda m, s: plain(modules=("hbr",)).fit(s, m["preferences"], progress=False),
    "Guidance": lambda m, s: pf.Guidance(s.train, m["preferences"], modules=("hbr",)),
    "hbr_weights": lambda m, s: m["preferences"].hbr_weights(s.train, pf.PDRecConfig()),
    "run": lambda m, s: pf.run(s.data, diffusion=m["diffusion"], progress=False),
    "Split": lambda m, s: replace(OWN, valid=s.valid),
}


def replace_modules(model: pf.PDRec) -> pf.PDRec:
    again = copy.copy(model)
    again.config = replace(model.config, modules=("fusion",))
    return again


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_another_catalogue(
    entry: str, other: str, models: dict[str, Any]
) -> None:
    preferences = pf.Preferences.infer(models["linear"], OWN.train, n_draws=2, progress=False)
    with pytest.raises(pf.DataError):
        ENTRIES[entry]({**models, "preferences": preferences}, OTHERS[other])


def test_histories_made_by_hand_are_compared_by_number_alone(models: dict[str, Any]) -> None:
    h = OWN.data.histories()
    by_hand = pf.Histories(h.items, h.timestamps, h.users, h.starts, h.stops, h.n_items)
    torch.testing.assert_close(models["model"].scores(by_hand), models["model"].scores(h))
    for n_items in (59, int(h.items.max())):
        with pytest.raises(ValueError, match=f"items must lie in 0..{n_items - 1}"):
            pf.Histories(h.items, None, h.users, h.starts, h.stops, n_items)


def test_parts_of_one_data_set_are_told_by_their_address() -> None:
    data = data_of(1)
    split = pf.leave_one_out(data)
    parts = [split.train.histories(), split.valid.histories, split.test.histories[:3]]
    for part in parts:
        assert part.catalogue is not None
        assert part.catalogue.is_that_of(data.catalogue)
        assert "fingerprint" not in vars(part.catalogue)  # no id was read
    text = pf.Interactions.from_arrays(["1", "2"], ["7", "9"], [0, 1])
    numbers = pf.Interactions.from_arrays([1, 2], [7, 9], [0, 1])
    assert text.catalogue.is_that_of(numbers.catalogue)
    mixed = pf.mix_domains(data, data_of(2))
    assert not mixed.catalogue.is_that_of(data.catalogue)
    assert pf.leave_one_out(mixed).test.histories.catalogue is mixed.catalogue
