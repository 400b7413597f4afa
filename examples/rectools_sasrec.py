"""RecTools' SASRec, trained with PDRec's weights, positives and negatives.

RecTools keeps its data, batches, transformer and Lightning trainer; two small subclasses add whose
sequences a batch holds, and PDRec's loss. Needs ``pip install 'pdrec_fast[rectools]'``;
``python examples/rectools_sasrec.py`` takes a minute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

import pdrec_fast as pf

LENGTH = 30  # longest sequence that the model reads
OBJECTIVE = pf.Objective("dot", temperature=1.0)


class Preparator(SASRecDataPreparator):
    """Adds the user of every sequence; by itself RecTools' batch has none."""

    def _collate_fn_train(self, batch: list) -> dict[str, torch.Tensor]:
        users = torch.tensor([extras["user_index"][0] for _, _, extras in batch])
        return super()._collate_fn_train(batch) | {"users": users}


class PDRecModule(TransformerLightningModule):
    """RecTools' Lightning module with PDRec's objective (paper, eq. 6) as its loss."""

    guidance: pf.Guidance  # set by ``guided``
    train_data: pf.Interactions

    def on_train_start(self) -> None:
        super().on_train_start()
        # RecTools numbers items as they come, after padding; here they are numbered by their ids.
        raw = self.data_preparator.get_known_item_ids()
        self.ours = torch.tensor([-1, *self.train_data.item_index(raw)])
        self.theirs = torch.zeros(self.train_data.n_items, dtype=torch.int64)
        self.theirs[self.ours[1:]] = torch.arange(1, len(self.ours))

    def _calc_custom_loss(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        guidance, config, users = self.guidance, self.guidance.config, batch["users"]
        table = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, table)
        nexts, real = self.ours[batch["y"]], batch["y"] > 0
        negatives = self.theirs[guidance.negatives(users, nexts, self.current_epoch)]
        ranked = torch.cat([batch["y"][..., None], negatives], dim=2)[real]
        weights = guidance.weights(users, nexts)[real]
        loss = OBJECTIVE.ranking(states[real], table, ranked, weights)
        soft = guidance.soft_positives(users)
        soft = torch.where(soft >= 0, self.theirs[soft], -1)
        distilled = OBJECTIVE.distillation(states[:, -1], table, soft, config.dpa_top_n)
        return loss + config.dpa_weight * distilled


def guided(train: pf.Interactions, preferences: pf.Preferences, epochs: int) -> SASRecModel:
    """RecTools' model, not yet fitted."""
    config = replace(pf.PRESETS["default"].pdrec, modules=("hbr", "dpa", "nns"), loss="bce")
    guidance = pf.Guidance(train, preferences, config, max_length=LENGTH)
    # A class, as RecTools takes no object that it could not write to JSON.
    module = type("Guided", (PDRecModule,), {"guidance": guidance, "train_data": train})
    return SASRecModel(
        n_blocks=1,
        n_heads=1,
        n_factors=48,
        session_max_len=LENGTH,
        lr=5e-3,
        epochs=epochs,
        loss="PDRec",  # RecTools hands unknown losses to _calc_custom_loss
        lightning_module_type=module,
        data_preparator_type=Preparator,
        data_preparator_kwargs={"extra_cols": ["user_index"]},
    )


def known_to_rectools(data: pf.Interactions) -> pd.DataFrame:
    """Records that RecTools trains on: the latest, of users with two or more."""
    lengths = np.diff(data.indptr)[data.record_users]
    frame = pd.DataFrame(
        {
            Columns.User: data.user_ids[data.record_users],
            Columns.Item: data.item_ids[data.items],
            Columns.Datetime: pd.to_datetime(data.timestamps, unit="s"),
            Columns.Weight: 1.0,
        }
    )
    return frame[lengths >= 2].groupby(Columns.User).tail(LENGTH + 1)


def main(n_users: int = 800, epochs: int = 30) -> tuple[SASRecModel, pd.DataFrame]:
    split = pf.leave_one_out(pf.synthetic(n_users=n_users, n_items=900))
    frame = known_to_rectools(split.train)
    # Both libraries see the same records, so that every negative is an item that RecTools knows.
    train = pf.Interactions.from_frame(
        frame, user=Columns.User, item=Columns.Item, timestamp=Columns.Datetime
    )
    scorer = pf.DiffRec(pf.PRESETS["default"].diffusion, epochs=50).fit(train, progress=False)
    preferences = pf.Preferences.infer(scorer, train, top_m=10, progress=False)

    frame["user_index"] = train.user_index(frame[Columns.User].to_numpy())
    dataset = Dataset.construct(frame, keep_extra_cols=True)
    model = guided(train, preferences, epochs).fit(dataset)

    users = split.data.user_ids[split.test.users]
    users = users[np.isin(users, train.user_ids)]
    recommended = model.recommend(users, dataset, k=10, filter_viewed=True)
    targets = split.data.item_ids[split.valid.targets]
    wanted = dict(zip(split.data.user_ids[split.valid.users].tolist(), targets, strict=True))
    hits = recommended[Columns.Item] == recommended[Columns.User].map(wanted)
    print(f"Hit rate at 10 of the next item, all items ranked: {hits.sum() / len(users):.4f}")
    return model, recommended


if __name__ == "__main__":
    main()
