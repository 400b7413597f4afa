"""What recommenders with a network over interaction vectors share: settings, fit, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import torch
from torch import nn

from pdrec_fast.buffers import Buffers
from pdrec_fast.checks import (
    check_choices,
    check_kinds,
    check_not_negative,
    check_positive,
    check_seed,
)
from pdrec_fast.data import Histories, Interactions, Split
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.data.storage import (
    id_array,
    interactions_from_tensors,
)
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion.inputs import RowTensors, SparseRows, interaction_rows, recorded
from pdrec_fast.diffusion.saved import SavedRecommender
from pdrec_fast.diffusion.selection import validation_on
from pdrec_fast.errors import CheckpointError, NotFittedError, one_line
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting.bundle import Contents
from pdrec_fast.fitting.callbacks import Callback, OnEpochEnd
from pdrec_fast.fitting.finite import check_parameters
from pdrec_fast.fitting.history import History
from pdrec_fast.fitting.loop import LoopConfig, SelectBy, run_loop
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.isolation import drawing_from, own_settings
from pdrec_fast.profiling import unit
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.ranks.gradients import sum_gradients
from pdrec_fast.settings_format import FORMAT, with_current_defaults

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class NetworkConfig:
    """How a network over interaction vectors is trained.

    Attributes:
        lr, weight_decay: of AdamW.
        batch_size: users per step.
        epochs, patience, eval_every: see ``LoopConfig``; selection is by validation NDCG@10.
        select_by: evaluation protocol of that NDCG@10.
        validation_users: it is taken on at most so many users, a sample that ``seed`` fixes; 0: on
            all. The final test is always on all.
        seed: of weights, order, noise and dropout.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 200
    patience: int = 10
    eval_every: int = 2
    select_by: SelectBy = "full"
    validation_users: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self, select_by=get_args(SelectBy))
        check_seed(self)
        check_positive(self, "lr", "batch_size")
        check_not_negative(self, "weight_decay", "validation_users")
        self.loop()

    def loop(self) -> LoopConfig:
        """When training stops; it checks its own settings."""
        return LoopConfig(self.epochs, self.patience, eval_every=self.eval_every)


@dataclass(frozen=True)
class Batch:
    """Users of one step, on the model's device.

    Attributes:
        rows: their interaction vectors.
        users: int64 [B], keys of their noise.
        draws: float64 [B], uniform in [0, 1), one a user.
        entry_draws: float32 [entries of ``rows``], alike.
        epoch: of training; step: number of steps before this one, over all epochs.
    """

    rows: RowTensors
    users: torch.Tensor
    draws: torch.Tensor
    entry_draws: torch.Tensor
    epoch: int
    step: int

    def __len__(self) -> int:
        return len(self.users)


class NetworkRecommender(SavedRecommender):
    """A recommender whose network reads interaction vectors; subclasses say which network.

    Items without a training record are left out of the histories that are scored.

    Args:
        config: all settings; keyword arguments override single ones.
        device: where it is trained and scores: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...;
            ``"auto"`` is a GPU where there is one. Saved models and checkpoints go from one to
            another.
    """

    CONFIG: ClassVar[type[NetworkConfig]]

    def __init__(
        self,
        config: Any = None,
        *,
        device: str | torch.device = "auto",
        **settings: Any,
    ) -> None:
        self.config = replace(config or self.CONFIG(), **settings)
        self.device = resolve_device(device)
        self.network: Any = None  # of the kind that ``new_network`` makes
        self.data: Interactions | None = None
        self.history: History | None = None
        self.trained_on: str | None = None  # fingerprint of the training interactions
        self.trained_items: np.ndarray | None = None  # bool [n_items], those in them
        self.catalogue: Catalogue | None = None
        self.item_ids: np.ndarray | None = None  # raw ids [n_items], see Interactions

    @property
    def name(self) -> str:
        """For tables."""
        raise NotImplementedError

    def new_network(self, n_items: int) -> nn.Module:
        """A network with fresh weights; within ``drawing_from``."""
        raise NotImplementedError

    def prepare(self, rows: SparseRows) -> None:
        """What the network takes from the training rows before the first epoch; alike."""

    def losses(self, batch: Batch) -> torch.Tensor:
        """The loss of every user, float [B]."""
        raise NotImplementedError

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Scorer``."""
        raise NotImplementedError

    @own_settings(training=True)
    def fit(
        self,
        data: Split | Interactions,
        *,
        warm_start: Any = None,
        epochs: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = True,
        on_epoch_end: OnEpochEnd | None = None,
        callbacks: Sequence[Callback] = (),
        mesh: Mesh = ALONE,
    ) -> Self:
        """Train on ``data.train``, stopping early on ``data.valid``.

        Args:
            data: a split; or plain interactions, which are all trained on for ``config.epochs``
                epochs, with no early stopping.
            warm_start: refused: such a model starts from fresh weights.
            epochs: train for so many at most; None for ``config.epochs``.
            checkpoint: directory to resume from and to write to.
            progress: show a bar of the epochs.
            on_epoch_end, callbacks: see ``run_loop``.
            mesh: the processes that train together, see ``DiffRec.fit``.

        Raises:
            DataError: no user has a record.
            ValueError: ``warm_start`` is given, or ``epochs`` is out of range.
            NonFiniteLossError, CheckpointError: see ``run_loop``.
        """
        if warm_start is not None:
            raise ValueError(
                f"warm_start: {self.name} starts from fresh weights alone; leave it out"
            )
        train = data.train if isinstance(data, Split) else data
        config, evaluator, validation = self.config, None, None
        if isinstance(data, Split):
            evaluator, validation = validation_on(data, config, mesh)
        self.trained_items = np.bincount(train.items, minlength=train.n_items) > 0
        self.item_ids, self.catalogue = train.item_ids, train.catalogue
        identity: dict[str, Any] = {
            "model": self.KIND,
            "config": asdict(config),
            "data": train.fingerprint(),
            "validation data": data.data.fingerprint() if isinstance(data, Split) else None,
        }
        if epochs is not None:
            identity["epochs"] = epochs
        task = self.training_task(train, evaluator, mesh)
        try:
            self.history = run_loop(
                task,
                config.loop().up_to(epochs),
                name=self.name,
                select_by=config.select_by,
                identity=identity,
                defaults={"config": asdict(self.CONFIG())},
                validation=validation,
                checkpoint=checkpoint,
                progress=progress,
                on_epoch_end=on_epoch_end,
                callbacks=callbacks,
                mesh=mesh,
            )
        except BaseException:
            self.network = None  # half-trained weights are no model
            raise
        self.trained_on = train.fingerprint()
        self.data = data.data if isinstance(data, Split) else data
        return self

    def training_task(
        self, train: Interactions, evaluator: Evaluator | None = None, mesh: Mesh = ALONE
    ) -> NetworkTask:
        """What ``fit`` runs epoch by epoch, on a new network.

        Raises:
            DataError: no user has a record.
        """
        histories = recorded(train)
        rows = self._rows(histories)
        with self._drawing():
            self.network = self.new_network(train.n_items)
            self.prepare(rows)
        self.network.to(self.device)
        self.weights_changed()
        return NetworkTask(self, rows, histories.users, evaluator, mesh)

    def inputs(self, histories: Histories) -> SparseRows:
        """The interaction vectors of B histories, of items with training records.

        Raises:
            NotFittedError: not fitted.
            DataError: the histories are over other items.
        """
        self.fitted_network()
        assert self.trained_items is not None
        check_catalogue(histories, len(self.trained_items), self.catalogue)
        return self._rows(histories.only(self.trained_items))

    def weights_changed(self) -> None:
        """Forget what was derived from the network's weights."""

    def contents(self) -> Contents:
        """What the bundle of a model that this guides keeps of it: JSON values, and tensors by
        file."""
        network = self.fitted_network()
        check_parameters(network, self.name)
        assert self.trained_items is not None
        assert self.item_ids is not None
        meta = {
            "format": FORMAT,
            "config": asdict(self.config),
            "trained_on": self.trained_on,
            "item_ids": self.item_ids.tolist(),
        }
        if self.history is not None:
            meta["history"] = asdict(self.history)
        items = {"trained": torch.from_numpy(self.trained_items)}
        return meta, {"weights": dict(network.state_dict()), "items": items}

    @classmethod
    @own_settings(training=True)
    def from_contents(
        cls, contents: Contents, path: str | Path, *, device: str | torch.device = "auto"
    ) -> Self:
        """The model of ``contents``; ``path`` is named in errors. See ``load``."""
        meta, files = contents
        meta = with_current_defaults(meta, {"config": asdict(cls.CONFIG())}, path)
        model = cls(cls.CONFIG(**meta["config"]), device=device)
        model.trained_items = files["items"]["trained"].numpy()
        with model._drawing():
            model.network = model.new_network(len(model.trained_items))
        try:
            model.network.load_state_dict(files["weights"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: weights do not fit the configuration: {one_line(error)}"
            ) from None
        model.network.to(model.device)
        model.history = History(**meta["history"]) if "history" in meta else None
        model.trained_on = meta["trained_on"]
        model.item_ids = id_array(meta["item_ids"])
        model.catalogue = Catalogue(model.item_ids)
        if "interactions" in files:  # not in the bundle of another model
            model.data = interactions_from_tensors(files["interactions"], meta["ids"])
        return model

    def interactions(self) -> Interactions:
        """The data of ``fit``.

        Raises:
            NotFittedError: there are none: not fitted, or saved as a guide.
        """
        self.fitted_network()
        if self.data is None:
            raise NotFittedError(
                f"this {type(self).__name__} was saved without its interactions, as the guide of "
                "another model: set model.data to those of its fit"
            )
        return self.data

    def fitted_network(self) -> nn.Module:
        """The network; a NotFittedError says so when there is none yet."""
        if self.network is None:
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted: call fit(...) or {name}.load(...)")
        network: nn.Module = self.network
        return network

    def _drawing(self) -> drawing_from:
        """What fresh weights are drawn within: they depend on the seed alone."""
        return drawing_from(torch.Generator().manual_seed(self.config.seed))

    def _rows(self, histories: Histories) -> SparseRows:
        return interaction_rows(histories, weighting="none", w_min=1.0, w_max=1.0)


class NetworkTask:
    """Training of a ``NetworkRecommender``; see ``fitting.loop.TrainingTask``.

    Args:
        model: with a new network.
        rows: the interaction vectors trained on; users: int64 [B], keys of their noise.
        evaluator: None validates nothing.
        mesh: the processes that train together; they share the users of a step.
    """

    def __init__(
        self,
        model: NetworkRecommender,
        rows: SparseRows,
        users: np.ndarray,
        evaluator: Evaluator | None,
        mesh: Mesh = ALONE,
    ) -> None:
        self.axis = mesh.all
        self.model, self.rows, self.users, self.evaluator = model, rows, users, evaluator
        config = model.config
        self.buffers = Buffers()  # of the steps: matrices of users by items, and gradients
        self.network = model.fitted_network()
        self.optimizer = with_state(
            torch.optim.AdamW(
                self.network.parameters(),
                lr=config.lr,
                weight_decay=config.weight_decay,
                fused=True,
            )
        )

    def train_epoch(self, epoch: int) -> torch.Tensor:
        n_users = len(self.rows)
        counts = {"tokens": len(self.rows.items), "items": n_users * self.rows.n_items}
        with unit("diffusion", users=n_users, **counts), self.buffers.lent():
            losses = self._train_epoch(epoch)
        self.model.weights_changed()
        return losses

    def _train_epoch(self, epoch: int) -> torch.Tensor:
        config, device = self.model.config, self.model.device
        # On the host, so that every device sees the same numbers.
        generator = torch.Generator().manual_seed(epoch_seed(config.seed, epoch))
        order = torch.randperm(len(self.rows), generator=generator).numpy()
        rows = self.rows[order].to(device)
        users = torch.from_numpy(self.users[order]).to(device)
        draws = torch.rand(len(order), dtype=torch.float64, generator=generator).to(device)
        entry_draws = torch.rand(len(rows.items), dtype=torch.float32, generator=generator)
        entry_draws = entry_draws.to(device)
        starts = range(0, len(order), config.batch_size)
        losses = []
        for number, start in enumerate(starts):
            n_users = min(start + config.batch_size, len(order)) - start
            own = self.axis.share(n_users)
            some = slice(start + own.start, start + own.stop)
            entries = slice(int(rows.bounds[some.start]), int(rows.bounds[some.stop]))
            step = epoch * len(starts) + number
            given = rows[some], users[some], draws[some], entry_draws[entries]
            loss = torch.zeros((), dtype=torch.float32, device=device)
            if own.start < own.stop:
                loss = self.model.losses(Batch(*given, epoch, step)).sum() / n_users
                loss.backward()
            sum_gradients(self.network.parameters(), self.axis)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(self.axis.sum_(loss.detach().clone()))
        return torch.stack(losses)

    @torch.no_grad()
    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.ndcg_at_10(self.model, self.model.config.select_by)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.network.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.network.load_state_dict(weights)
        self.model.weights_changed()

    def state(self) -> dict[str, torch.Tensor]:
        return optimizer_state(self.optimizer, self.network)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self.optimizer, self.network, state)
