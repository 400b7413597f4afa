"""What is told of a training while it runs, and where it may be written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdrec_fast.errors import DataError, MissingExtraError
from pdrec_fast.files import make_directory, write_text
from pdrec_fast.fitting.history import History

OnEpochEnd = Callable[[History], None]
Row = dict[str, "str | int | float"]  # of one epoch: its number from 1, loss, seconds, figure


class Callback:
    """Told of every training it is given to; each method does nothing unless a subclass does.

    An exception from one ends the training. A training that continues from a checkpoint begins with
    ``on_fit_start`` and an ``on_epoch_end`` that has all epochs of the checkpoint.
    """

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Before the first epoch.

        Args:
            name: of the model, such as ``"TI-DiffRec"`` or ``"sasrec+fusion"``.
            settings: JSON values that say what is trained: its ``"config"`` and more.
        """

    def on_epoch_end(self, name: str, history: History) -> None:
        """After every epoch, its validation and its checkpoint.

        Args:
            history: all epochs up to now. It is the training's own: read it, do not change it.
        """

    def on_fit_end(self, name: str, history: History) -> None:
        """After the last epoch, when the model has its best weights. A training that failed, or was
        interrupted, does not come here."""


class Callbacks(Callback):
    """Several callbacks, and a plain function of the history, as one."""

    def __init__(self, callbacks: Sequence[Callback], on_epoch_end: OnEpochEnd | None) -> None:
        if not isinstance(callbacks, Sequence):
            raise TypeError(
                f"callbacks must be a list, got a {type(callbacks).__name__}: write "
                "callbacks=[...] around it"
            )
        for each in callbacks:
            if not isinstance(each, Callback):
                raise TypeError(
                    f"callbacks has a {type(each).__name__}: pass objects of pdrec_fast.Callback's "
                    "subclasses; a plain function is on_epoch_end=..."
                )
        self.callbacks, self.function = callbacks, on_epoch_end

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        for each in self.callbacks:
            each.on_fit_start(name, settings)

    def on_epoch_end(self, name: str, history: History) -> None:
        if self.function is not None:
            self.function(history)
        for each in self.callbacks:
            each.on_epoch_end(name, history)

    def on_fit_end(self, name: str, history: History) -> None:
        for each in self.callbacks:
            each.on_fit_end(name, history)


class Prefixed(Callback):
    """Passes everything on under ``prefix`` and the name."""

    def __init__(self, callback: Callback, prefix: str) -> None:
        self.callback, self.prefix = callback, prefix

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        self.callback.on_fit_start(self.prefix + name, settings)

    def on_epoch_end(self, name: str, history: History) -> None:
        self.callback.on_epoch_end(self.prefix + name, history)

    def on_fit_end(self, name: str, history: History) -> None:
        self.callback.on_fit_end(self.prefix + name, history)


class CSVLogger(Callback):
    """Writes one row for every model and epoch: ``model,epoch,loss,valid_ndcg@10,seconds``.

    The file is written anew after every epoch, with the rows that it has of other models: whoever
    reads it sees it whole, and a training that is continued or repeated replaces its own rows.

    Args:
        path: of the file; its folder is made where there is none.
    """

    COLUMNS = ("model", "epoch", "loss", "valid_ndcg@10", "seconds")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, name: str, history: History) -> None:
        rows = [row for row in self._found() if row["model"] != name]
        rows += [{"model": name, **row} for row in epoch_rows(history)]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        make_directory(self.path.parent)
        write_text(self.path, text.getvalue())

    def _found(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != self.COLUMNS:
                raise DataError(
                    f"{self.path}: has the columns {reader.fieldnames}, not {list(self.COLUMNS)}: "
                    "it is no log of trainings; choose another file"
                )
            return list(reader)


class TensorBoardLogger(Callback):
    """Writes the curves of every model for TensorBoard (``tensorboard --logdir DIR``), in a folder
    of its own, named like it: ``loss``, ``valid_ndcg@10`` and ``seconds`` by epoch, from 1.

    A training that is continued or repeated takes the place of what TensorBoard showed of it.

    Args:
        directory: of the folders.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError(
                "TensorBoardLogger needs tensorboard: pip install 'pdrec_fast[tensorboard]'"
            ) from None
        self.directory, self._open = Path(directory), SummaryWriter
        self._writer: Any = None
        self._written = 0

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        self._close()
        # Readers forget what earlier processes wrote here: all of it is in the history.
        self._writer = self._open(str(self.directory / name), purge_step=0)

    def on_epoch_end(self, name: str, history: History) -> None:
        for row in epoch_rows(history)[self._written :]:
            step = row.pop("epoch")
            for key, value in row.items():
                self._writer.add_scalar(key, value, step)
        self._written = history.epochs
        self._writer.flush()

    def on_fit_end(self, name: str, history: History) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written = None, 0


def epoch_rows(history: History) -> list[Row]:
    """Every epoch's number (from 1), loss, validation figure where it was taken, and seconds since
    the start."""
    rows: list[Row] = []
    for epoch, (loss, seconds) in enumerate(zip(history.losses, history.elapsed, strict=True)):
        row: Row = {"epoch": epoch + 1, "loss": loss}
        if str(epoch) in history.validations:
            row["valid_ndcg@10"] = history.validations[str(epoch)]
        rows.append(row | {"seconds": round(seconds, 4)})
    return rows
