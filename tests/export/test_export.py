"""An exported model gives the items of ``recommend``: in ONNX Runtime, and in torch alone."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import pdrec_fast as pf
from pdrec_fast.export.parts import Recommender, Scores, Vectors, described_shares, model_parts
from pdrec_fast.export.programs import traced, write_onnx
from pdrec_fast.export.writing import recommended_items

DATA = pf.synthetic(n_users=70, n_items=60, seed=1)


def without(data, *items):
    """The interactions without the records of some items."""
    stays = ~np.isin(data.items, items)
    indptr = np.append(0, stays.cumsum())[data.indptr]
    kept = data.items[stays], data.timestamps[stays]
    return pf.Interactions(indptr, *kept, data.user_ids, data.item_ids)


TRAIN = without(pf.leave_one_out(DATA).train, 0, 17, 59)
SETTINGS = {
    "modules": (),
    "epochs": 2,
    "batch_size": 32,
    "loss": "shared_softmax",
    "shared_negatives": 16,
    "skip_cold_items": True,
    "rank_cold_items": False,
    "lr": 0.02,
}
OPTIONS = {"width": 8, "max_length": 9}  # shorter than most histories


def fitted(encoder="sasrec", **settings):
    own = {
        "gru4rec": {"hidden": 6, "layers": 2},
        "caser": {"window": 3},
        "mlp4rec": {"layers": 2},
        "bert4rec": {"blocks": 2, "heads": 2},
    }
    own["timed ligr"] = {"blocks": 2, "heads": 2, "time_buckets": 50}
    own["hstu"] = {"blocks": 2, "heads": 2, "time_buckets": 50}
    options = OPTIONS | own.get(encoder, {"blocks": 1, "heads": 2})
    encoder = encoder.removeprefix("timed ")
    model = pf.PDRec(encoder, encoder_options=options, **SETTINGS | settings)
    model.fit(TRAIN, progress=False)
    model.data = DATA
    return model


def diffusion(**settings):
    defaults = {"hidden": (8,), "epochs": 2, "lr": 0.02, "skip_cold_items": True}
    return pf.DiffRec(**defaults | settings).fit(TRAIN, progress=False)


MULTINOMIAL = {
    "weighting": "decay",
    "w_min": 0.0,
    "likelihood": "multinomial",
    "noise": "mask",
    "target": "later",
    "snr_weighting": False,
}


def fused(model, **shares):
    """``name=(guide, weight, transform)``"""
    guides = {name: guide for name, (guide, *_) in shares.items()}
    shares = {name: pf.Share(*share) for name, (_, *share) in shares.items()}
    model.fusion = pf.Fusion(guides, shares)
    return model


def default_fusion(model):
    """What the default preset has: a masked diffusion and the linear denoiser."""
    linear = pf.LinearDenoiser(ridge=5.0, neighbors=7).fit(TRAIN)
    fused(model, guide=(diffusion(**MULTINOMIAL), 0.3), linear=(linear, 2.0))
    model.fusion.levels = ((3.0, 9.0), (0.5, 4.0), (-1.0, 1.5))  # where the history's items stand
    return model


def padded(data=DATA, spread=True):
    """(items, times) of every user, with padding before, after and between the items."""
    rng, lengths = np.random.default_rng(0), np.diff(data.indptr)
    length = lengths.max() + 5
    items = np.zeros((data.n_users, length), dtype=np.int64)
    times = np.zeros((data.n_users, length))
    for user, n in enumerate(lengths):
        places = np.arange(n)
        if spread:
            places = np.sort(rng.choice(length, n, replace=False))
        records = slice(data.indptr[user], data.indptr[user + 1])
        items[user, places] = data.items[records] + 1
        times[user, places] = data.timestamps[records]
    return items, times


def session(path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'pdrec_fast[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'pdrec_fast[onnx]'")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_same_items(model, rows, scores):
    wanted, wanted_scores = model.recommend(DATA.user_ids, k=rows.shape[1])
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-5)
    there = scores > -np.inf
    assert (DATA.item_ids[rows][there] == wanted[there]).all()
    assert (wanted[~there] == None).all()  # noqa: E711
    assert there[:, :5].all()


TIMED = ["hstu", "timed ligr"]
PLAIN = [*TIMED, "ligr", "caser", "mlp4rec", "bert4rec", "diffurec", "diffrec-star"]
WITH_FUSION = ["gru4rec", "sasrec", "cl4srec"]


@pytest.mark.parametrize(
    ("encoder", "fuse"),
    [(name, False) for name in WITH_FUSION + PLAIN] + [(name, True) for name in WITH_FUSION],
)
def test_onnx_gives_the_items_of_recommend_for_every_user(encoder, fuse, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'pdrec_fast[onnx]'")
    model = fitted(encoder)
    if fuse:
        default_fusion(model)
    parts = model_parts(model)
    program = traced(Recommender(parts, ~parts.hidden, 10), parts.reads_times, "it")
    names = ["scores", "top_rows", "top_scores"]
    write_onnx(program, tmp_path / "r.onnx", names, parts.reads_times)
    run = session(tmp_path / "r.onnx")
    items, times = padded()
    assert parts.reads_times == (encoder in TIMED)
    times[items == 0] = 1e18  # does not count
    inputs = {"items": items} | ({"times": times} if parts.reads_times else {})
    scores, rows, top = run.run(names, inputs)
    assert_same_items(model, rows, top)
    np.testing.assert_allclose(scores, model.scores(DATA.histories()), rtol=1e-4, atol=1e-5)
    for part in np.s_[:1, :], np.s_[2:3, -1:], np.s_[:4, :2]:  # any number, any length
        some = {name: values[part] for name, values in inputs.items()}
        alone = run.run(["scores"], some)[0]
        given = [torch.from_numpy(values) for values in some.values()]
        np.testing.assert_allclose(alone, program.module()(*given)[0], atol=1e-5)


def test_a_program_reads_the_times_between_items():
    """Shifted all alike they say the same; an item that was long ago does not."""
    model = fitted("hstu")
    parts = model_parts(model)
    recommender = Recommender(parts, ~parts.hidden, 10)
    items, times = (torch.from_numpy(array) for array in padded())
    with torch.no_grad():
        scores, shifted, other = (
            recommender(items, given)[0] for given in (times, times + 3e6, times * 7)
        )
    torch.testing.assert_close(shifted, scores)
    ranked = ~parts.hidden
    assert ((other - scores)[:, ranked].abs().amax(dim=1) > 1e-6).float().mean() > 0.9


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, folder): with timestamps, a diffusion in steps, popularity and a guide of its own
    kind, which all are one product."""
    pytest.importorskip("onnxscript", reason="pip install 'pdrec_fast[onnx]'")
    model = fused(
        fitted(),
        diffusion=(diffusion(weighting="interval", steps=3), 1.5),
        popularity=(pf.Popularity(TRAIN), 0.2, "log", 0.5),
        other=(fitted(seed=1, similarity="dot"), 0.5),
    )
    folder = tmp_path_factory.mktemp("export") / "served"
    model.export(folder, k=10)
    return model, folder


def test_vectors_times_the_matrix_are_the_scores(exported):
    model, folder = exported
    items, times = padded()
    inputs = {"items": items, "times": times}
    vectors = session(folder / "encoder.onnx").run(["vectors"], inputs)[0]
    scores, rows, top = session(folder / "recommender.onnx").run(None, inputs)
    assert_same_items(model, rows, top)
    matrix = np.load(folder / "items.npy")
    assert matrix.dtype == np.float32
    assert (load_file(folder / "items.safetensors")["matrix"].numpy() == matrix).all()
    ranked = np.isfinite(scores[0])
    assert 0 < (~ranked).sum() < 10
    np.testing.assert_allclose((vectors @ matrix.T)[:, ranked], scores[:, ranked], atol=1e-4)


@pytest.mark.parametrize("transform", ["raw", "log"])
def test_a_guide_with_a_fusion_of_its_own_keeps_its_levels(transform):
    model = fused(fitted(), other=(default_fusion(fitted(seed=1)), 0.5, transform))
    parts = model_parts(model)
    items, times = (torch.from_numpy(array) for array in padded())
    with torch.no_grad():
        scores = Scores(parts)(items, times if parts.reads_times else None)
    torch.testing.assert_close(scores, model.scores(DATA.histories()), rtol=1e-4, atol=1e-5)


def test_shares_beside_levels_are_not_in_the_vectors():
    popularity = pf.Popularity(TRAIN)
    popularity.foresees_repeats = False
    for guide in (pf.LinearDenoiser(ridge=5.0).fit(TRAIN), popularity):
        model = fused(fitted(), guide=(guide, 2.0))
        model.fusion.levels = ((3.0, 9.0), (0.5, 4.0))
        assert not model_parts(model).are_vectors
        assert [share["in_vectors"] for share in described_shares(model, fusion=True)] == [False]


def test_torch_reloads_the_programs_without_this_package(exported, tmp_path):
    model, folder = exported
    items, times = padded()
    np.savez(tmp_path / "in.npz", items=items, times=times)
    code = (
        "import sys, numpy as np, torch\n"
        "folder, work = sys.argv[1:]\n"
        "given = np.load(work + '/in.npz')\n"
        "inputs = torch.from_numpy(given['items']), torch.from_numpy(given['times'])\n"
        "out = torch.export.load(folder + '/recommender.pt2').module()(*inputs)\n"
        "vectors = torch.export.load(folder + '/encoder.pt2').module()(*inputs)\n"
        "assert not [name for name in sys.modules if name.startswith('pdrec_fast')]\n"
        "np.savez(work + '/out.npz', vectors.detach().numpy(), *(o.detach().numpy() for o in out))"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    vectors, scores, rows, top = (np.load(tmp_path / "out.npz")[f"arr_{n}"] for n in range(4))
    assert_same_items(model, rows, top)
    ranked = np.isfinite(scores[0])
    products = vectors @ np.load(folder / "items.npy").T
    np.testing.assert_allclose(products[:, ranked], scores[:, ranked], atol=1e-4)


def test_card_and_id_table_say_what_the_files_are(exported):
    model, folder = exported
    card = json.loads((folder / "card.json").read_text())
    assert card["preprocessing"]["max_length"] == 9
    assert card["preprocessing"]["skip_items_never_trained_on"] is True
    assert card["vectors_are_complete"] is True
    assert card["inputs"]["times"] is not None
    assert {share["guide"]: share["in_vectors"] for share in card["shares"]} == {
        "diffusion": True,
        "popularity": True,
        "other": True,
    }
    listed = {file.name for file in folder.iterdir()} - {"card.json"}
    assert set(card["files"]) == listed
    table = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in table] == DATA.item_ids.tolist()
    assert [line["row"] for line in table] == list(range(60))
    trained = np.array([line["trained"] for line in table])
    assert (trained == model.trained_items).all()
    assert not trained.all()
    assert card["items_recommended"] == sum(line["recommended"] for line in table) == trained.sum()


WEIGHTINGS = ["none", "rank", "interval", "decay", "half-life"]


@pytest.mark.parametrize("times", [True, False], ids=["times", "no times"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("likelihood", ["gaussian", "multinomial"])
def test_parts_have_the_scores_of_the_model(likelihood, weighting, times):
    """Every weighting and transform, untraced; with an item that occurs again in a history."""
    several = {"hidden": (8, 5), "normalize_input": True} if likelihood == "multinomial" else {}
    settings = {"weighting": weighting, "half_life": 5e5, "steps": 4, **several}
    guide = diffusion(likelihood=likelihood, **settings)
    linear = pf.LinearDenoiser(ridge=5.0, decay=1.0).fit(TRAIN)
    model = fused(
        fitted(skip_cold_items=False, rank_cold_items=True, epochs=1, learn_temperature=True),
        diffusion=(guide, 0.7),
        logged=(guide, 0.2, "log", 1e-2),
        linear=(linear, 0.5, "log", 1e-3),
        knn=(pf.ItemKNN(neighbors=9).fit(TRAIN), 0.4),
    )
    if not times:
        model.data = pf.Interactions(
            DATA.indptr, DATA.items, None, DATA.user_ids, DATA.item_ids, DATA.target_items
        )
    parts = model_parts(model)
    assert parts.reads_times == (times and weighting in ("interval", "half-life"))
    items, when = (torch.from_numpy(array) for array in padded())
    histories = model.data.histories()
    assert any(len(set(row)) < len(row) for row in np.split(DATA.items, DATA.indptr[1:-1]))
    with torch.no_grad():
        scores = Scores(parts)(items, when if parts.reads_times else None)
    torch.testing.assert_close(scores, model.scores(histories), rtol=1e-4, atol=1e-5)


class Mean(nn.Module):
    """The mean of the items so far."""

    def __init__(self, n_rows):
        super().__init__()
        self.item_embedding = nn.Embedding(n_rows, 4)
        self.out = nn.Linear(4, 4)

    def forward(self, ids):
        count = (ids > 0).cumsum(1).clamp_min(1)[..., None]
        return self.out(self.item_embedding(ids).cumsum(1) / count)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_encoder_of_ones_own_is_traced(side):
    def mean_encoder(n_items):
        return pf.PaddedEncoder(Mean(n_items + 1), max_length=6, side=side)

    model = pf.PDRec(mean_encoder, **SETTINGS).fit(TRAIN, progress=False)
    model.data = DATA
    parts = model_parts(model)
    items = torch.from_numpy(padded()[0])
    vectors = traced(Vectors(parts), False, "it").module()(items)
    scores = vectors @ parts.matrix.T
    wanted = model.scores(DATA.histories())
    ranked = ~parts.hidden
    torch.testing.assert_close(scores[:, ranked], wanted[:, ranked], rtol=1e-4, atol=1e-5)


class Rare(Mean):
    def forward(self, ids):
        return torch.special.bessel_j0(super().forward(ids))


def test_what_onnx_lacks_is_written_for_torch_alone(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'pdrec_fast[onnx]'")

    def rare(n_items):
        return pf.PaddedEncoder(Rare(n_items + 1), max_length=6)

    parts = model_parts(pf.PDRec(rare, **SETTINGS).fit(TRAIN, progress=False))
    program = traced(Vectors(parts), False, "it")
    with pytest.raises(pf.ExportError, match=r"^encoder.onnx: ONNX .*bessel_j0.*onnx=False"):
        write_onnx(program, tmp_path / "encoder.onnx", ["vectors"], False)
    assert list(tmp_path.iterdir()) == []


class Reading(Mean):
    def forward(self, ids):
        return super().forward(ids) if int(ids.sum()) > 0 else super().forward(ids) * 0


class Packed(nn.Module):
    max_length = 5

    def __init__(self, n_items):
        super().__init__()
        self.item_embedding = nn.Embedding(n_items, 4)

    def forward(self, batch):
        return self.item_embedding(batch.items)


class Own:
    def scores(self, histories, items=None):
        scores = torch.zeros(len(histories), histories.n_items)
        return scores if items is None else scores.gather(1, items)


def test_what_cannot_be_traced_is_named_and_nothing_is_written(tmp_path):
    def reading(n_items):
        return pf.PaddedEncoder(Reading(n_items + 1), max_length=6)

    target = tmp_path / "out"
    for make, why in (
        (reading, "cannot trace the encoder of 'reading'"),
        (Packed, "PaddedEncoder"),
    ):
        model = pf.PDRec(make, **SETTINGS).fit(TRAIN, progress=False)
        with pytest.raises(pf.ExportError, match=why):
            model.export(target, onnx=False)
    model = fitted(epochs=1)
    dense = diffusion(epochs=1, sampling_noise=True)
    codigem = pf.Codigem(hidden=(4,), epochs=1, select_by="full").fit(TRAIN, progress=False)
    for guide, why in (
        (Own(), "'mine' is a Own"),
        (codigem, "'mine' is a Codigem"),
        (dense, "'mine' is a DiffRec .* dense states"),
    ):
        with pytest.raises(pf.ExportError, match=why + r".*export\(fusion=False\)"):
            fused(model, mine=(guide, 1.0)).export(target, onnx=False)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        model.export(target, k=0, onnx=False)
    with pytest.raises(pf.NotFittedError):
        pf.PDRec().export(target)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_another_and_nothing_else(tmp_path):
    model = fused(fitted(epochs=1), mine=(Own(), 1.0))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("purr")
    with pytest.raises(pf.CheckpointError, match="will not be replaced"):
        model.export(tmp_path / "photos", fusion=False, onnx=False)
    for k in (3, 999):
        model.export(tmp_path / "out", fusion=False, onnx=False, k=k)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["top_k"], card["shares"]) == (60, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_an_export_leaves_no_trace_in_memory(tmp_path):
    def environments():
        gc.collect()
        return sum(type(each) is ShapeEnv for each in gc.get_objects())

    before, model = environments(), fitted(epochs=1)
    for _ in range(2):
        model.export(tmp_path / "out", onnx=False)
    assert environments() <= before


def test_only_targets_of_two_domains_are_recommended():
    targets = np.arange(60) % 2 == 0
    data = pf.Interactions(
        DATA.indptr, DATA.items, DATA.timestamps, DATA.user_ids, DATA.item_ids, targets
    )
    model = fitted(epochs=1)
    model.data = data
    parts = model_parts(model)
    with torch.no_grad():
        items = torch.from_numpy(padded()[0])
        _, rows, top = Recommender(parts, recommended_items(parts, data), 10)(items)
    assert_same_items(model, rows.numpy(), top.numpy())
