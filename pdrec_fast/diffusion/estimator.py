"""DiffRec, T-DiffRec and TI-DiffRec as one estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions, Split
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.storage import (
    id_array,
    interactions_from_tensors,
)
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.denoiser import ITEM_WEIGHTS, Denoiser
from pdrec_fast.diffusion.inputs import SparseRows, scored_rows
from pdrec_fast.diffusion.reverse import HiddenChain, dense_reverse, one_step
from pdrec_fast.diffusion.saved import SavedRecommender
from pdrec_fast.diffusion.selection import validation_on
from pdrec_fast.diffusion.sharded import ShardedScorer, check_shardable, whole_denoiser
from pdrec_fast.diffusion.targets import TrainingRows
from pdrec_fast.diffusion.task import DiffusionTask
from pdrec_fast.errors import CheckpointError, NotFittedError, one_line
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting.bundle import Contents
from pdrec_fast.fitting.callbacks import Callback, OnEpochEnd
from pdrec_fast.fitting.finite import check_parameters
from pdrec_fast.fitting.history import History
from pdrec_fast.fitting.loop import run_loop
from pdrec_fast.fitting.warm_start import (
    former_rows,
    tell_dropped,
    warm_weights,
    weights_fingerprint,
)
from pdrec_fast.isolation import drawing_from, own_settings
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.selection.project import project
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.settings_format import FORMAT, with_current_defaults

NAMES = {"rank": "T-DiffRec", "interval": "TI-DiffRec"}


class DiffRec(SavedRecommender):
    """Diffusion recommender over a whole corpus (Wang et al. 2023; PDRec's TI-DiffRec).

    Args:
        config: all settings; keyword arguments override single ones, e.g.
            ``DiffRec(weighting="rank", epochs=50)`` is T-DiffRec.
        device: where it is trained and scores: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...;
            ``"auto"`` is a GPU where there is one. Saved models and checkpoints go from one to
            another.

    After ``fit`` or ``load``, ``scores`` gives preferences over every item; the model serves as a
    recommender of its own in ``evaluate`` and as the scorer of ``Preferences.infer``.
    """

    KIND = "diffusion model"

    def __init__(
        self,
        config: DiffusionConfig | None = None,
        *,
        device: str | torch.device = "auto",
        **settings: Any,
    ) -> None:
        self.config = replace(config or DiffusionConfig(), **settings)
        self.device = resolve_device(device)
        self.schedule = self.config.noise_schedule()
        self.denoiser: Denoiser | None = None
        self.data: Interactions | None = None
        self.history: History | None = None
        self.trained_on: str | None = None  # fingerprint of the training interactions
        self.trained_items: np.ndarray | None = None  # bool [n_items], those in them
        self.catalogue: Catalogue | None = None  # unknown of models saved by version 0.1.0
        self.item_ids: np.ndarray | None = None  # raw ids [n_items], see Interactions
        self._chain: HiddenChain | None = None

    @own_settings(training=True)
    def fit(
        self,
        data: Split | Interactions,
        *,
        warm_start: DiffRec | None = None,
        epochs: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = True,
        on_epoch_end: OnEpochEnd | None = None,
        callbacks: Sequence[Callback] = (),
        mesh: Mesh = ALONE,
    ) -> DiffRec:
        """Train on ``data.train``, stopping early on ``data.valid``.

        Args:
            data: a split; or plain interactions, which are all trained on for ``config.epochs``
                epochs, with no early stopping.
            warm_start: a fitted model whose weights are the start: rows of items that it knows, by
                raw id, and everything that is not an item's; new items start as in a new model, and
                so does the optimiser. It may be this model. What ``data`` holds out should not have
                been trained on by it.
            epochs: train for so many at most; None for ``config.epochs``.
            checkpoint: directory to resume from and to write to.
            progress: show a bar of the epochs.
            on_epoch_end, callbacks: see ``run_loop``.
            mesh: the processes that train together, each of which makes this call with the same
                arguments and has the whole model at its end (``docs/ranks.md``).

        Raises:
            DataError: no user has a record; with ``target="later"``, two.
            ValueError: ``warm_start`` has other shapes or no item in common; ``epochs`` is out of
                range.
            TypeError: ``warm_start`` is no ``DiffRec``.
            NonFiniteLossError, CheckpointError, RankLostError: see ``run_loop``.
        """
        train = data.train if isinstance(data, Split) else data
        config = self.config
        if mesh.items.size > 1:
            check_shardable(config)
        evaluator = validation = None
        if isinstance(data, Split):
            evaluator, validation = validation_on(data, config, mesh)
        self.trained_items = np.bincount(train.items, minlength=train.n_items) > 0
        denoiser = self.new_denoiser(train.item_ids, warm_start)
        identity: dict[str, Any] = {
            "config": asdict(config),
            "data": train.fingerprint(),
            "validation data": data.data.fingerprint() if isinstance(data, Split) else None,
        }
        if epochs is not None:
            identity["epochs"] = epochs
        if warm_start is not None:
            identity["warm start"] = warm_start.fingerprint()
        self.denoiser = denoiser
        self.item_ids, self.catalogue = train.item_ids, train.catalogue
        try:
            task = self.training_task(train, evaluator, mesh)
            self.history = run_loop(
                task,
                config.loop().up_to(epochs),
                name=self.name,
                select_by=config.select_by,
                identity=identity,
                defaults={"config": asdict(DiffusionConfig())},
                validation=validation,
                checkpoint=checkpoint,
                progress=progress,
                on_epoch_end=on_epoch_end,
                callbacks=callbacks,
                mesh=mesh,
            )
            if mesh.items.size > 1:
                self.denoiser = whole_denoiser(task)
                self._chain = None
        except BaseException:
            self.denoiser = None  # half-trained weights are no model
            raise
        self.trained_on = train.fingerprint()
        self.data = data.data if isinstance(data, Split) else data
        return self

    def training_task(
        self, train: Interactions, evaluator: Evaluator | None = None, mesh: Mesh = ALONE
    ) -> DiffusionTask:
        """What ``fit`` runs epoch by epoch, on this model's denoiser; over a mesh that shares the
        items, on this process's share of it.

        Raises:
            DataError: see ``fit``.
        """
        denoiser, scorer = self.fitted_denoiser(), self
        sharded = None
        if mesh.items.size > 1:
            sharded = ShardedScorer(self, mesh)
            denoiser = sharded.denoiser
            self.denoiser = None  # the memory is that of a share
        return DiffusionTask(
            denoiser,
            self.schedule,
            self.config,
            TrainingRows(train.histories(), self.config),
            device=self.device,
            scorer=sharded or scorer,
            evaluator=evaluator,
            mesh=mesh,
            n_items=train.n_items,
        )

    @property
    def name(self) -> str:
        """For tables: DiffRec, T-DiffRec or TI-DiffRec."""
        return NAMES.get(self.config.weighting, "DiffRec")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any weight or setting."""
        return weights_fingerprint(self.fitted_denoiser().state_dict(), _named(self.config))

    @own_settings()
    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Preferences after the reverse process; with the multinomial likelihood the logits that
        the denoiser gives x_0 itself at step 0, taken as naturally noised like DiffRec's.

        Args:
            histories: B histories.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N], on the model's device.

        Raises:
            DataError: the histories are over other items.
        """
        denoiser = self.fitted_denoiser()
        items = None if items is None else items.to(self.device)
        if self.has_user_vectors:
            vectors = self.user_vectors(histories)
            if items is None:
                return project(vectors, denoiser.item_out, denoiser.item_bias)
            return item_logits(vectors, denoiser.item_out, items, bias=denoiser.item_bias)
        config = self.config
        full = dense_reverse(
            denoiser,
            self.schedule,
            self.inputs(histories),
            histories.users,
            prediction=config.prediction,
            sampling_steps=config.sampling_steps,
            sampling_noise=config.sampling_noise,
            seed=config.seed,
        )
        return full if items is None else full.gather(1, items)

    @property
    def has_user_vectors(self) -> bool:
        """Whether the preferences are products with ``item_vectors``: in one step always, else
        where the reverse process can stay in the hidden layer (see ``HiddenChain``)."""
        config = self.config
        return config.likelihood == "multinomial" or (
            config.prediction == "x0"
            and config.sampling_steps == 0
            and not config.sampling_noise
            and len(config.hidden) == 1
            and not config.normalize_input
        )

    @own_settings()
    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """h with preferences = ``item_out h + item_bias``: float32 [B, H]."""
        denoiser = self.fitted_denoiser()
        if self.config.likelihood == "multinomial":
            return one_step(denoiser, self.inputs(histories))
        if self._chain is None:
            self._chain = HiddenChain.prepare(denoiser, self.schedule)
        return self._chain.run(self.inputs(histories))

    @property
    def item_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(item_out [N, H], item_bias [N]): preferences are products with ``user_vectors``."""
        denoiser = self.fitted_denoiser()
        return denoiser.item_out.detach(), denoiser.item_bias.detach()

    def inputs(self, histories: Histories) -> SparseRows:
        """x'_0 of each history, see ``interaction_rows``.

        Raises:
            DataError: the histories are over other items.
        """
        n_items = self.fitted_denoiser().n_items
        return scored_rows(histories, n_items, self.catalogue, self.trained_items, self.config)

    def contents(self) -> Contents:
        """What the bundle of a model that this guides keeps of it: JSON values, and tensors by
        file."""
        denoiser = self.fitted_denoiser()
        check_parameters(denoiser, self.name)
        meta = {
            "format": FORMAT,
            "config": asdict(self.config),
            "n_items": denoiser.n_items,
            "trained_on": self.trained_on,
        }
        if self.item_ids is not None:
            meta["item_ids"] = self.item_ids.tolist()
        if self.history is not None:
            meta["history"] = asdict(self.history)
        files = {"weights": dict(denoiser.state_dict())}
        if self.trained_items is not None:
            files["items"] = {"trained": torch.from_numpy(self.trained_items)}
        return meta, files

    @classmethod
    @own_settings(training=True)
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        device: str | torch.device = "auto",
    ) -> DiffRec:
        """The model of ``contents``; ``path`` is named in errors. See ``load``."""
        meta, files = contents
        meta = with_current_defaults(meta, {"config": asdict(DiffusionConfig())}, path)
        model = cls(DiffusionConfig(**meta["config"]), device=device)
        model.denoiser = model._new_denoiser(meta["n_items"])
        try:
            model.denoiser.load_state_dict(files["weights"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: weights do not fit the configuration: {one_line(error)}"
            ) from None
        model.denoiser.to(model.device)
        model.history = History(**meta["history"]) if "history" in meta else None
        model.trained_on = meta["trained_on"]
        if "item_ids" in meta:  # not in version 0.1.0, nor is what follows
            model.item_ids = id_array(meta["item_ids"])
            model.catalogue = Catalogue(model.item_ids)
        if "items" in files:
            model.trained_items = files["items"]["trained"].numpy()
        if "interactions" in files:  # neither in version 0.1.0 nor in the bundle of another model
            model.data = interactions_from_tensors(files["interactions"], meta["ids"])
        return model

    def interactions(self) -> Interactions:
        """The data of ``fit``.

        Raises:
            NotFittedError: there are none: not fitted, or saved by version 0.1.0 or as a guide.
        """
        self.fitted_denoiser()
        if self.data is None:
            raise NotFittedError(
                "this DiffRec was saved without its interactions (by version 0.1.0, or as the "
                "guide of another model): set model.data to those of its fit"
            )
        return self.data

    def item_directions(self) -> torch.Tensor:
        """Unit vectors [n_items, hidden[-1]] of the output layer's items."""
        return torch.nn.functional.normalize(self.fitted_denoiser().item_out.detach(), dim=-1)

    def weights_changed(self) -> None:
        """Forget what was derived from the denoiser's weights."""
        self._chain = None

    def _new_denoiser(self, n_items: int) -> Denoiser:
        config = self.config
        with drawing_from(torch.Generator().manual_seed(config.seed)):
            return Denoiser(n_items, config.hidden, config.time_embedding, config.normalize_input)

    def new_denoiser(
        self, item_ids: np.ndarray, former: DiffRec | None = None, *, tell: bool = True
    ) -> Denoiser:
        """A denoiser of these items on this model's device, with fresh weights, which depend on
        ``config.seed``, or those of ``former``.

        Args:
            tell: count the items that are gone in a warning.

        Raises:
            ValueError, TypeError: see ``warm_start`` of ``fit``.
        """
        denoiser = self._new_denoiser(len(item_ids)).to(self.device)
        if former is None:
            return denoiser
        if not isinstance(former, DiffRec):
            raise TypeError(f"warm_start takes a fitted DiffRec, got a {type(former).__name__}")
        weights = former.fitted_denoiser().state_dict()
        if former.item_ids is None:
            raise ValueError(
                "warm_start: this diffusion model was saved by an older version, without the raw "
                "ids of its items; set them to those of the data it was fitted on "
                "(model.item_ids = data.item_ids)"
            )
        rows = former_rows(item_ids, former.item_ids)
        if tell:
            tell_dropped(rows, len(former.item_ids))
        started = warm_weights(denoiser.state_dict(), weights, rows, ITEM_WEIGHTS)
        denoiser.load_state_dict(started)
        return denoiser

    def fitted_denoiser(self) -> Denoiser:
        """The denoiser; a NotFittedError says so when there is none yet."""
        if self.denoiser is None:
            raise NotFittedError("this DiffRec is not fitted: call fit(...) or DiffRec.load(...)")
        return self.denoiser


def _named(config: DiffusionConfig) -> str:
    """``repr(config)`` without settings that version 0.1.0 did not have and that are not used, so
    that its models keep their fingerprints."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    newer = (
        "cut_every",
        "decay",
        "earlier_weight",
        "half_life",
        "likelihood",
        "noise",
        "skip_cold_items",
        "target",
        "validation_users",
    )
    unused = {name: DiffusionConfig.__dataclass_fields__[name].default for name in newer}
    for name, value in unused.items():
        if values[name] == value:
            del values[name]
    return f"DiffusionConfig({', '.join(f'{name}={value!r}' for name, value in values.items())})"
