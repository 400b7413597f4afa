"""RecTools' SASRec for ``bench.head_to_head``; written for RecTools 0.19."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

import pdrec_fast as pf
from bench.head_to_head import EpochEnd, Settings
from pdrec_fast.data import Histories, Split

_UNKNOWN = -1e9  # score of items that RecTools has not seen in training


def train(split: Split, settings: Settings, epoch_end: EpochEnd) -> None:
    """Train ``SASRecModel`` with RecTools' own trainer, batches and sampled softmax."""
    # Notes on workers and devices that are not wanted here.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(settings.seed, verbose=False)
    options: dict[str, Any] = {
        "n_blocks": settings.blocks,
        "n_heads": settings.heads,
        "n_factors": settings.width,
        "dropout_rate": settings.dropout,
        "session_max_len": settings.length,
        "loss": "sampled_softmax",
        "n_negatives": settings.negatives,
        "lr": settings.lr,
        "batch_size": settings.batch_size,
    }
    # A class, as RecTools takes no object that it could not write to JSON.
    attributes = {"train_data": split.train, "epoch_end": staticmethod(epoch_end)}
    model = SASRecModel(
        **(options | settings.more),
        lightning_module_type=type("Timed", (TimedModule,), attributes),
        get_trainer_func=trainer,
        get_trainer_func_kwargs={"epochs": settings.epochs},
    )
    model.fit(dataset(split.train))


def trainer(epochs: int) -> Trainer:
    """RecTools' default but for the device; it finds this function by its name."""
    return Trainer(
        max_epochs=epochs,
        min_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class TimedModule(TransformerLightningModule):
    """RecTools' module, which times its epochs without what is done between them."""

    train_data: pf.Interactions  # set by ``train``, like the next
    epoch_end: EpochEnd

    def on_train_epoch_start(self) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        took = time.perf_counter() - self.started
        known = self.train_data.item_index(self.data_preparator.get_known_item_ids())
        random_state = torch.get_rng_state()
        go_on = self.epoch_end(
            took, _Scorer(self.torch_model, known, self.data_preparator.session_max_len)
        )
        torch.set_rng_state(random_state)
        self.train()
        self.trainer.should_stop = not go_on


class _Scorer:
    """Scores of RecTools' network in the order of this package's items.

    Args:
        items: int64 [n], this package's number of each item that RecTools knows, in its order;
            RecTools numbers them from 1, and 0 is padding.
    """

    def __init__(self, network: Any, items: np.ndarray, length: int) -> None:
        self.network, self.length = network.eval(), length
        self.items = torch.from_numpy(np.asarray(items, dtype=np.int64))

    @torch.inference_mode()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        theirs = np.zeros(histories.n_items, dtype=np.int64)
        theirs[self.items.numpy()] = np.arange(1, 1 + len(self.items))
        sessions = np.zeros((len(histories), self.length), dtype=np.int64)
        for row, (start, stop) in enumerate(zip(histories.starts, histories.stops, strict=True)):
            session = theirs[histories.items[start:stop]]
            session = session[session > 0][-self.length :]
            sessions[row, self.length - len(session) :] = session
        vectors = self.network.item_model.get_all_embeddings()
        states = self.network.encode_sessions({"x": torch.from_numpy(sessions)}, vectors)[:, -1]
        scores = states.new_full((len(histories), histories.n_items), _UNKNOWN)
        scores[:, self.items] = states @ vectors[1:].T
        return scores if items is None else scores.gather(1, items)


def dataset(data: pf.Interactions) -> Dataset:
    """The same records, a second apart in their order; RecTools reads the latest."""
    lengths = np.diff(data.indptr)
    place = np.arange(data.n_records) - np.repeat(data.indptr[:-1], lengths)
    frame = pd.DataFrame(
        {
            Columns.User: data.user_ids[data.record_users],
            Columns.Item: data.item_ids[data.items],
            Columns.Datetime: pd.to_datetime(place, unit="s"),
            Columns.Weight: 1.0,
        }
    )
    return Dataset.construct(frame)
