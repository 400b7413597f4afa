"""Models off the CPU: the meta device computes nothing, but it refuses what a GPU would suffer
from, tensors of another device and numbers read back to the host."""

import threading

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pdrec_fast as pf
from pdrec_fast.data import Split, leave_one_out, synthetic
from pdrec_fast.data.sequences import pack
from pdrec_fast.devices import prefetched, resolve_device
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.selection.select_projected import ProjectedSelection
from pdrec_fast.preferences import Preferences, inference
from pdrec_fast.training import MODULES, PDRec

pytest.importorskip("triton", reason="Triton is not installed")
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic(40, 61, seed=1))


@pytest.fixture
def no_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused optimisers know the devices that compute."""
    for optimizer in (torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(optimizer, "step", lambda self: None)
        created = optimizer.__init__

        def without_fused(self, *args, created=created, **options):
            created(self, *args, **(options | {"fused": False}))

        monkeypatch.setattr(optimizer, "__init__", without_fused)


class OneDevice(TorchDispatchMode):
    """Refuses what would fail on a GPU: an operation on tensors of two devices, and one that has no
    deterministic form there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        devices = {t.device.type for t in tensors if t.ndim}
        if len(devices) > 1 and func not in COPIES:
            raise RuntimeError(f"{func} got tensors on {devices}")
        off_cpu = "cpu" not in {t.device.type for t in tensors}
        if off_cpu and func is torch.ops.aten.cumsum.default and args[0].is_floating_point():
            raise RuntimeError("cumsum of floats is not deterministic on a GPU")
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("no_updates")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("shape", [{}, {"hidden": (6, 5)}, {"normalize_input": True}])
def test_diffusion_epochs_stay_on_the_device(split, precision, prediction, shape):
    settings = {"hidden": (6,), "batch_size": 16, "precision": precision, "prediction": prediction}
    model = pf.DiffRec(device="meta", **(settings | shape))
    model.denoiser = model._new_denoiser(split.train.n_items).to(model.device)
    task = model.training_task(split.train)
    for epoch in range(2):
        with OneDevice():
            losses = task.train_epoch(epoch)
        assert losses.shape == (3,)
        assert losses.device.type == "meta"


@pytest.mark.usefixtures("no_updates")
@pytest.mark.parametrize("modules", [(), ("hbr", "nns"), MODULES])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize(
    ("encoder", "loss"), [*((name, "bce") for name in sorted(ENCODERS)), ("sasrec", "softmax")]
)
def test_encoder_epochs_stay_on_the_device(split, encoder, loss, modules, similarity):
    preferences = Preferences.infer(Popular(), split.train, top_m=5, n_draws=8, progress=False)
    model = PDRec(
        encoder,
        modules=modules,
        similarity=similarity,
        loss=loss,
        batch_size=16,
        device="meta",
        encoder_options={"width": 8, "max_length": 12},
    )
    model.encoder = model.new_encoder(split.train.n_items)
    task = model.training_task(split.train, preferences)
    for epoch in range(2):
        with OneDevice():
            losses = task.train_epoch(epoch)
        assert losses.shape == (3,)
        assert losses.device.type == "meta"
    assert all(p.grad is not None for p in task.encoder.parameters())


@pytest.mark.parametrize("n_candidates", [None, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden": (6, 5)},
        {"normalize_input": True},
        {"sampling_steps": 2, "sampling_noise": True},
        {"prediction": "eps"},
    ],
)
def test_diffusion_scores_stay_on_the_device(split, settings, n_candidates):
    model = pf.DiffRec(device="meta", **({"hidden": (6,)} | settings))
    model.denoiser = model._new_denoiser(split.train.n_items).to(model.device)
    check_scores(model, split, n_candidates)


@pytest.mark.parametrize("n_candidates", [None, 5])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_encoder_scores_stay_on_the_device(split, similarity, n_candidates):
    options = {"width": 8, "max_length": 12}
    model = PDRec(modules=(), similarity=similarity, device="meta", encoder_options=options)
    model.encoder = model.new_encoder(split.train.n_items)
    check_scores(model, split, n_candidates)


@pytest.mark.usefixtures("no_updates")
def test_an_epoch_that_moves_rows_stays_on_the_device(split):
    model = PDRec(
        modules=(),
        table_optimizer="rows",
        batch_size=16,
        device="meta",
        encoder_options={"width": 8, "max_length": 12},
    )
    model.encoder = model.new_encoder(split.train.n_items)
    task = model.training_task(split.train)
    with OneDevice():
        assert task.train_epoch(0).device.type == "meta"


def check_scores(model, split, n_candidates):
    histories = split.test.histories
    items = n_candidates and torch.zeros(len(histories), n_candidates, dtype=torch.int64)
    with OneDevice():
        scores = model.scores(histories, items)
    assert scores.shape == (len(histories), n_candidates or split.train.n_items)
    assert scores.device.type == "meta"
    assert scores.dtype == torch.float32


def test_preferences_are_selected_on_the_device(split, monkeypatch):
    model, train = pf.DiffRec(device="meta", hidden=(6,)), split.train
    model.denoiser = model._new_denoiser(train.n_items).to(model.device)

    def selected(vectors, table, bias, observed, top_m, first_rank, n_draws, *, seed, users):
        tensors = vectors, table, bias, *observed, first_rank, users
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        per_user = vectors.new_empty(len(users))
        draws = vectors.new_empty(len(users), n_draws)
        of_observed = vectors.new_empty(len(observed[1]))
        return ProjectedSelection(draws[:, :top_m], per_user, per_user, of_observed, draws)

    monkeypatch.setattr(inference, "select_projected", selected)
    wanted = inference.PreferenceRequest(
        train.unique_items(),
        first_rank=np.zeros(train.n_users, np.int64),
        saw_all=np.zeros(train.n_users, bool),
        top_m=5,
        n_draws=8,
        seed=0,
    )
    users = slice(3, 30)
    assert inference.uses_vectors(model)
    with OneDevice():
        parts = inference._from_vectors(model, train, train.histories()[users], users, wanted)
    assert {part.device.type for part in parts} == {"meta"}
    assert len(parts[0]) == train.indptr[30] - train.indptr[3]


def test_these_tests_notice_what_they_are_here_for():
    on_device = torch.ones(3, 4, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        on_device.sum().item()
    with pytest.raises(NotImplementedError, match="meta"):
        on_device.cpu()
    with pytest.raises(RuntimeError, match="meta"), OneDevice():
        on_device @ torch.ones(4, 2)


class Popular:
    def scores(self, histories, items=None):
        return torch.arange(histories.n_items).float().repeat(len(histories), 1)


def test_scores_of_another_device_are_brought_to_the_host(split, monkeypatch):
    moved = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (moved.append(self), original(self))[1])
    Preferences.infer(Popular(), split.train, top_m=5, n_draws=8, progress=False)
    assert any(tensor.shape[-1] == split.train.n_items for tensor in moved)


def test_packed_sequences_keep_their_sources_on_the_host(split):
    batch = pack(split.train.histories(), 9, seed=3, epoch=2)
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.items, moved.indptr, moved.positions)} == {"meta"}
    assert moved.dropout_key.users.device.type == "meta"
    assert (moved.dropout_key.seed, moved.dropout_key.epoch) == (3, 2)
    np.testing.assert_array_equal(moved.sources, batch.sources)
    np.testing.assert_array_equal(moved.host_lengths, batch.host_lengths)
    assert pack(split.train.histories(), 9).to(torch.device("meta")).dropout_key is None


def test_named_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("meta")).type == "meta"
    assert resolve_device("auto") == torch.device("cpu")  # what these tests make of it
    with pytest.raises(ValueError, match="'auto', 'cpu' or 'cuda'"):
        pf.DiffRec(device="gpu")
    with pytest.raises(ValueError, match="GPU"):
        PDRec(device="cuda:99")


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_models_load_onto_the_device_that_is_asked_for(split, tmp_path):
    diffusion = pf.DiffRec(hidden=(4,), epochs=1, device="cpu").fit(split.train, progress=False)
    diffusion.save(tmp_path / "diffusion")
    assert diffusion.fitted_denoiser().item_in.device.type == "cpu"
    model = PDRec(modules=(), epochs=1, device="cpu", encoder_options={"width": 4})
    model.fit(split.train, progress=False).save(tmp_path / "model")
    for loaded in (
        pf.DiffRec.load(tmp_path / "diffusion", device="meta").fitted_denoiser(),
        PDRec.load(tmp_path / "model", device="meta").fitted_encoder(),
    ):
        assert {p.device.type for p in loaded.parameters()} == {"meta"}


def test_prefetching_keeps_order_and_works_ahead_in_another_thread():
    threads = set()
    made = []

    def numbers():
        for number in range(50):
            threads.add(threading.get_ident())
            made.append(number)
            yield number

    seen = []
    for number in prefetched(numbers()):
        seen.append(number)
    assert seen == list(range(50))
    assert threading.get_ident() not in threads
    assert len(threads) == 1
    assert list(prefetched([])) == []


def test_prefetching_passes_errors_on_and_can_be_left_early():
    def fails():
        yield 1
        raise KeyError("lost")

    numbers = prefetched(fails())
    assert next(numbers) == 1
    with pytest.raises(KeyError, match="lost"):
        next(numbers)
    before = threading.active_count()
    endless = prefetched(iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == before


def test_tensors_of_the_meta_device_take_the_course_of_a_gpu():
    from pdrec_fast.ops.packed._triton import offered

    assert choose("test", "auto", offered(torch.empty(3, device="meta"))) == "triton"
