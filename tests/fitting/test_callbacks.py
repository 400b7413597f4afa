"""What callbacks are told, and what the loggers write."""

import csv
import sys

import pytest

import pdrec_fast as pf
from pdrec_fast.errors import MissingExtraError
from pdrec_fast.fitting.callbacks import CSVLogger, Prefixed, TensorBoardLogger
from tests.fitting.test_loop import IDENTITY, Scripted, run

FIGURES = [0.1, 0.3, 0.2, 0.4]


class Told(pf.Callback):
    def __init__(self):
        self.seen = []

    def on_fit_start(self, name, settings):
        self.seen.append(("start", name, settings["config"]))

    def on_epoch_end(self, name, history):
        self.seen.append(("epoch", name, history.epochs))

    def on_fit_end(self, name, history):
        self.seen.append(("end", name, history.best_epoch))


def interrupted(checkpoint, at, **keywords):
    with pytest.raises(KeyboardInterrupt):
        run(Scripted(FIGURES, stop_at=at), checkpoint, epochs=4, **keywords)


def test_start_epochs_and_end_in_order_and_again_after_an_interruption(tmp_path):
    told, functions = Told(), []
    interrupted(tmp_path / "c", 2, callbacks=[told], on_epoch_end=lambda h: functions.append(h))
    config = IDENTITY["config"]
    assert told.seen == [("start", "toy", config), ("epoch", "toy", 1), ("epoch", "toy", 2)]
    assert len(functions) == 2
    again = Told()
    run(Scripted(FIGURES), tmp_path / "c", epochs=4, callbacks=[again, Prefixed(again, "my ")])
    own = [entry for entry in again.seen if entry[1] == "toy"]
    epochs = [("epoch", "toy", n) for n in (2, 3, 4)]
    assert own == [("start", "toy", config), *epochs, ("end", "toy", 3)]
    assert [(a, "my toy", b) for a, _, b in own] == [e for e in again.seen if e[1] == "my toy"]


def test_the_base_class_does_nothing_and_others_are_refused():
    run(Scripted(FIGURES), epochs=2, callbacks=[pf.Callback()])
    with pytest.raises(TypeError, match=r"callbacks has a function: .* on_epoch_end="):
        run(Scripted(FIGURES), epochs=2, callbacks=[lambda history: None])
    alone = r"callbacks must be a list, got a Callback: write callbacks=\[\.\.\.\] around it"
    with pytest.raises(TypeError, match=alone):
        run(Scripted(FIGURES), epochs=2, callbacks=pf.Callback())


def test_models_tell_their_names_and_settings(tmp_path):
    told = Told()
    train = pf.synthetic(n_users=30, n_items=150, seed=0)
    model = pf.DiffRec(hidden=(4,), epochs=1).fit(train, progress=False, callbacks=[told])
    pf.PDRec("gru4rec", modules=(), epochs=1).fit(train, progress=False, callbacks=[told])
    names = [entry[:2] for entry in told.seen]
    assert names == [(what, of) for of in ("TI-DiffRec", "gru4rec") for what in MOMENTS]
    assert told.seen[0][2]["hidden"] == [4]
    assert model.history.epochs == 1


MOMENTS = ("start", "epoch", "end")


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_one_row_for_every_epoch_whatever_happens(tmp_path):
    path = tmp_path / "logs" / "epochs.csv"
    options = {"eval_every": 2, "callbacks": [CSVLogger(path)]}
    # Two epochs are in the checkpoint, three in the file.
    interrupted(tmp_path / "c", 2, **options)
    with path.open("a") as stream:
        stream.write("toy,3,0.5,,0.1\nother,1,0.25,,0.1\n")
    run(Scripted(FIGURES), tmp_path / "c", epochs=4, **options)
    rows = [row for row in read(path) if row["model"] == "toy"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["valid_ndcg@10"] for row in rows] == ["", "0.3", "", "0.4"]
    assert [float(row["loss"]) for row in rows] == [1.0, 0.75, pytest.approx(2 / 3), 0.625]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert [row["loss"] for row in read(path) if row["model"] == "other"] == ["0.25"]
    run(Scripted(FIGURES), epochs=2, **options)  # anew, without a checkpoint
    assert [row["model"] for row in read(path)] == ["other", "toy", "toy"]


def test_a_foreign_file_is_not_overwritten(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(pf.DataError, match=r"clicks\.csv: has the columns \['user', 'item'\]"):
        run(Scripted(FIGURES), epochs=1, callbacks=[CSVLogger(path)])
    assert path.read_text() == "user,item\n1,2\n"


def test_tensorboard_shows_every_epoch_once(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="pip install 'pdrec_fast[tensorboard]'",
    )
    options = {"eval_every": 2, "callbacks": [TensorBoardLogger(tmp_path / "tb")]}
    interrupted(tmp_path / "c", 3, **options)
    run(Scripted(FIGURES), tmp_path / "c", epochs=4, callbacks=[TensorBoardLogger(tmp_path / "tb")])
    events = accumulator.EventAccumulator(str(tmp_path / "tb" / "toy"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("loss")[3].value == pytest.approx(0.625)
    figures = [(e.step, e.value) for e in events.Scalars("valid_ndcg@10")]
    assert figures[:2] == [(2, pytest.approx(0.3)), (4, pytest.approx(0.4))]


def test_tensorboard_that_is_absent_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pdrec_fast\[tensorboard\]'"):
        TensorBoardLogger("anywhere")
