"""What a trained encoder scores: logits, or the vectors that they are products of."""

from __future__ import annotations

import warnings
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from pdrec_fast.data import Histories, Interactions, Split
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.data.sequences import pack
from pdrec_fast.encoders.base import last_states
from pdrec_fast.encoders.featured import item_table
from pdrec_fast.errors import NotFittedError
from pdrec_fast.evaluation import Results, evaluate
from pdrec_fast.fusion import Fusion
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.selection.project import project
from pdrec_fast.recommending import Recommender
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.objective import Objective


class EncoderScorer(Recommender):
    """Scores of an encoder, with what a fusion adds, and all that follows from scores."""

    config: PDRecConfig
    device: torch.device
    encoder: nn.Module | None
    data: Interactions | None
    trained_items: np.ndarray | None  # bool [n_items], those in the training interactions
    trained_on: str | None  # fingerprint of the training interactions
    fusion: Fusion | None  # what other scorers add, with "fusion" in the modules
    _item_vectors: torch.Tensor | None  # where prepared

    @own_settings()
    @torch.inference_mode()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the next item, with what the fusion adds.

        Args:
            histories: B of them; the encoder's logits of one without items are 0.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N], on the model's device; -inf where ``rank_cold_items`` leaves
            an item out.

        Raises:
            DataError: the histories are over other items than the data of ``fit``.
        """
        logits = self._encoder_logits(histories, items)
        return logits if self.fusion is None else self.fusion.add_to(logits, histories, items)

    def _encoder_logits(self, histories: Histories, items: torch.Tensor | None) -> torch.Tensor:
        states, cold = self._states(histories), self._unranked
        if items is not None:
            items = items.to(self.device)
            table = item_table(self.fitted_encoder())
            logits = self.objective.logits(states, table, items)
            return logits if cold is None else logits.masked_fill_(cold[items], -torch.inf)
        offsets = None
        if cold is not None:  # within the product: a pass over the logits costs half as much again
            offsets = states.new_zeros(len(cold)).masked_fill_(cold, -torch.inf)
        return project(self._scaled(states), self.scoring_table(), offsets)

    def _states(self, histories: Histories) -> torch.Tensor:
        """[B, width], the encoder's state after each history; 0 of one without items."""
        encoder = self.fitted_encoder().eval()
        catalogue = None if self.data is None else self.data.catalogue
        check_catalogue(histories, encoder.item_embedding.num_embeddings, catalogue)
        known_items = self.known_items()
        if self.config.skip_cold_items and known_items is not None:
            histories = histories.only(known_items)
        known = np.flatnonzero(histories.lengths)
        times = getattr(encoder, "reads_times", False)
        batch = pack(histories[known], encoder.max_length, times=times).to(self.device)
        states = last_states(encoder, batch)
        vectors = states.new_zeros((len(histories), states.shape[1]))
        vectors[torch.from_numpy(known[batch.sources]).to(self.device)] = states
        return vectors

    def _scaled(self, states: torch.Tensor) -> torch.Tensor:
        """What is multiplied with the rows of ``scoring_table``."""
        if self.config.similarity == "cosine":
            return nn.functional.normalize(states, dim=-1) * self.temperature
        return states

    @property
    def _unranked(self) -> torch.Tensor | None:
        """bool [N], items that are ranked nowhere; None where there are none."""
        known_items = self.known_items()
        if self.config.rank_cold_items or known_items is None or known_items.all():
            return None
        return torch.from_numpy(~known_items).to(self.device)

    def known_items(self) -> np.ndarray | None:
        """bool [N], the items that were trained on or have features; None for all."""
        features = None if self.data is None else self.data.item_features
        if features is None or self.trained_items is None:
            return self.trained_items
        found: np.ndarray = self.trained_items | features.any(axis=1)
        return found

    @own_settings()
    @torch.inference_mode()
    def prepared(self) -> EncoderScorer:
        """This model for many calls of ``scores`` while its weights stay as they are: what the
        calls share, the unit vectors of all items, is computed once."""
        self.fitted_encoder()
        model = copy(self)
        model._item_vectors = self.scoring_table()
        model.fusion = None if self.fusion is None else self.fusion.prepared()
        return model

    def scoring_table(self) -> torch.Tensor:
        """float32 [N, width]: what users' vectors are multiplied with."""
        if self._item_vectors is not None:
            return self._item_vectors
        table = item_table(self.fitted_encoder())
        return (
            nn.functional.normalize(table, dim=-1) if self.config.similarity == "cosine" else table
        )

    @property
    def has_user_vectors(self) -> bool:
        """Whether the logits are products with ``item_vectors``: those of the encoder always, with
        a fusion where it leaves no item where it was, and every share is of scores as they are and
        those are products."""
        fusion = self.fusion
        if fusion is None or not fusion.used:
            return True
        return not (fusion.levels and fusion.blind) and all(
            share.transform == "raw" and getattr(fusion.guides[name], "has_user_vectors", False)
            for name, share in fusion.used.items()
        )

    @own_settings()
    @torch.inference_mode()
    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """float32 [B, H]: the state, beside it each guide's vector times its share."""
        parts = [self._scaled(self._states(histories))]
        if self.fusion is not None:
            for name, share in self.fusion.used.items():
                guide: Any = self.fusion.guides[name]
                parts.append(guide.user_vectors(histories).to(self.device) * share.weight)
        return torch.cat(parts, dim=1)

    @property
    def item_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(vectors [N, H], offsets [N]): logits are products with ``user_vectors``."""
        parts = [self.scoring_table().detach()]
        offsets = parts[0].new_zeros(len(parts[0]))
        if self.fusion is not None:
            for name, share in self.fusion.used.items():
                guide: Any = self.fusion.guides[name]
                vectors, more = (tensor.to(self.device) for tensor in guide.item_vectors)
                parts.append(vectors)
                offsets += more * share.weight
        if self._unranked is not None:
            offsets = offsets.masked_fill(self._unranked, -torch.inf)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], offsets

    @property
    def objective(self) -> Objective:
        """The losses that the configuration describes."""
        config = self.config
        return Objective(
            config.similarity,
            self.temperature,
            loss=config.loss,
            gbce_calibration=config.gbce_calibration,
        )

    @property
    def temperature(self) -> float:
        """That of the logits: of the configuration, or what was learned from it."""
        if self.config.learn_temperature and self.encoder is not None:
            return float(self.fitted_encoder().log_temperature.detach().exp())
        return self.config.temperature

    def evaluate(self, split: Split, **options: Any) -> Results:
        """Metrics under both protocols; see ``pdrec_fast.evaluation.evaluate``. A warning says when
        this model was trained on what the split holds out, as final models are."""
        if self.trained_on == split.data.fingerprint():
            warnings.warn(
                "this model was trained on all records, those that it is tested on too: its "
                "figures are too good; test the one that was selected (RunResult.selected, "
                "RUN/selection)",
                stacklevel=2,
            )
        return evaluate(self, split, **options)

    def item_directions(self) -> torch.Tensor:
        """Unit vectors [n_items, width] of the encoder's item embeddings."""
        table = item_table(self.fitted_encoder()).detach()
        return nn.functional.normalize(table, dim=-1)

    def interactions(self) -> Interactions:
        """The data of ``fit``."""
        self.fitted_encoder()
        assert self.data is not None
        return self.data

    def fitted_encoder(self) -> Any:
        """The encoder; a NotFittedError says so when there is none yet."""
        if self.encoder is None:
            raise NotFittedError("this PDRec is not fitted: call fit(...) or PDRec.load(...)")
        return self.encoder
