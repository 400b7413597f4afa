"""The epoch loop that every model is fitted with: early stopping, checkpoints, resuming."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from tqdm.auto import tqdm

from pdrec_fast.checks import check_counts
from pdrec_fast.errors import CheckpointError, NonFiniteLossError, NonFiniteScoresError
from pdrec_fast.fitting.bundle import bundle_exists, read_bundle, write_bundle
from pdrec_fast.fitting.callbacks import Callback, Callbacks, OnEpochEnd
from pdrec_fast.fitting.finite import LARGEST_WEIGHT, largest
from pdrec_fast.fitting.history import History
from pdrec_fast.fitting.validation import Validation
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.settings_format import FORMAT, with_current_defaults

logger = logging.getLogger("pdrec_fast")
KIND = "training checkpoint"
SelectBy = Literal["paper", "full"]  # evaluation protocol that early stopping looks at


class TrainingTask(Protocol):
    """One model under training. An epoch must depend on nothing but the state and its number."""

    def train_epoch(self, epoch: int) -> torch.Tensor:
        """Train one epoch; returns the loss of every step, [steps]."""
        ...

    def validate(self) -> float | None:
        """The figure to maximise, or None when there is nothing to validate on."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's weights, as live tensors."""
        ...

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take on weights that ``weights`` gave."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Everything besides the weights that the next epoch depends on."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take on a state that ``state`` gave."""
        ...


@runtime_checkable
class ShardedTask(TrainingTask, Protocol):
    """A task over a mesh whose processes have but their shares of some weights."""

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights, or a state, of which this process has its shares, as one process would have
        them, on the host; every process of the mesh must call it."""
        ...

    def own(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process's shares of what ``whole`` gave."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """When to stop and how often to look.

    Attributes:
        epochs: at most this many.
        patience: stop when the validation figure has not improved for this many epochs.
        min_epochs: never stop early before this epoch.
        eval_every: validate every so many epochs.
        checkpoint_seconds: write a checkpoint when at least this long has passed since the last.
    """

    epochs: int
    patience: int = 10
    min_epochs: int = 0
    eval_every: int = 1
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "patience", "eval_every")

    def up_to(self, epochs: int | None) -> LoopConfig:
        """The same with at most so many epochs; None changes nothing.

        Raises:
            ValueError: below 1, or more than there are.
        """
        if epochs is None:
            return self
        if not 1 <= epochs <= self.epochs:
            raise ValueError(
                f"epochs={epochs} must lie in 1 .. config.epochs={self.epochs}, which the learning "
                "rate is planned for"
            )
        return replace(self, epochs=epochs)


def run_loop(
    task: TrainingTask,
    config: LoopConfig,
    *,
    name: str,
    select_by: SelectBy,
    identity: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch_end: OnEpochEnd | None = None,
    callbacks: Sequence[Callback] = (),
    mesh: Mesh = ALONE,
) -> History:
    """Train ``task`` until it stops improving and leave it with its best weights.

    Args:
        name: shown on the progress bar and in errors.
        select_by: protocol of the validation figure, shown beside it.
        identity: JSON values that say what is being trained (configuration, data fingerprint). A
            checkpoint of another identity is refused.
        defaults: of the settings in ``identity``, for those that a checkpoint of an older version
            does not name.
        validation: what the figure is taken on and held against: a training that comes to nothing
            is told in the log and in the history's ``remarks``. None says nothing.
        checkpoint: directory to resume from and to write to, first after one epoch; None keeps
            nothing.
        on_epoch_end: called with the history after every epoch, and first with that of a
            checkpoint; an exception from it ends the training.
        callbacks: told likewise, and of start and end; see ``Callback``.
        mesh: the processes that train together. The first one alone shows the bar, writes the
            checkpoint, which all of them read, and is told; what a callback raises there ends the
            training of all.

    Raises:
        TypeError: something else is among the callbacks.
        NonFiniteLossError: a loss or weight became NaN or infinite, or a weight larger than 1e18;
            the last checkpoint stays.
        CheckpointError: the checkpoint is damaged or belongs to another run.
        DataError: the processes of the mesh have different data or settings.
        RankLostError: another process of the mesh is gone, or a callback failed on the first.
    """
    told = Callbacks(callbacks, on_epoch_end) if mesh.is_first else Callbacks((), None)
    history, best = History(), None
    # As a checkpoint gives it back.
    identity = json.loads(json.dumps({"format": FORMAT} | dict(identity)))
    mesh.check_alike(identity)
    if checkpoint is not None and mesh.agreed(bundle_exists(checkpoint)):
        history, best = _resume(task, checkpoint, identity, defaults or {})
        logger.info("%s: resuming after epoch %d", name, history.epochs)
    infinite = _infinite_from_the_start(task, name, mesh)
    mesh.once(lambda: told.on_fit_start(name, identity))
    if history.epochs:
        mesh.once(lambda: told.on_epoch_end(name, history))
    _note(history, validation, name)
    saved_at = -math.inf
    with tqdm(
        total=config.epochs,
        initial=history.epochs,
        desc=name,
        unit="epoch",
        disable=not (progress and mesh.is_first),
    ) as bar:
        while not history.finished:
            epoch, started = history.epochs, time.monotonic()
            history.losses.append(_checked_mean(task.train_epoch(epoch), name, epoch, checkpoint))
            _check_weights(task, infinite, name, epoch, checkpoint, mesh)
            if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
                best = _validate(task, history, best, name, epoch, checkpoint)
            history.finished = _is_over(config, history)
            _remark(history, epoch, validation, name, bar)
            history.seconds += time.monotonic() - started
            history.elapsed.append(history.seconds)
            bar.set_postfix_str(_describe(history, select_by, validation), refresh=False)
            bar.update()
            due = history.finished or time.monotonic() - saved_at >= config.checkpoint_seconds
            if checkpoint is not None and mesh.agreed(due):
                _save(task, history, best, checkpoint, identity, mesh)
                saved_at = time.monotonic()
            mesh.once(lambda: told.on_epoch_end(name, history))
    if best is not None:
        task.load_weights(best)
    mesh.once(lambda: told.on_fit_end(name, history))
    return history


def _note(history: History, validation: Validation | None, name: str) -> None:
    """Keep in the history what its validation figures are taken on and held against."""
    if validation is None:
        return
    sizes = validation.n_users, validation.of_users
    history.validation_users, history.of_users = sizes
    history.popularity = validation.popularity
    if validation.n_users < validation.of_users:
        logger.info("%s: validating on a fixed sample of %d of %d users", name, *sizes)


def _validate(
    task: TrainingTask,
    history: History,
    best: dict[str, torch.Tensor] | None,
    name: str,
    epoch: int,
    checkpoint: str | Path | None,
) -> dict[str, torch.Tensor] | None:
    """The best weights so far, this epoch's among them."""
    try:
        value = task.validate()
    except NonFiniteScoresError:
        raise NonFiniteLossError(
            f"{name}: scores are NaN in the validation after epoch {epoch + 1}; "
            + _advice(checkpoint)
        ) from None
    if value is None:
        return best
    history.validations[str(epoch)] = value
    if value > history.best_value:
        history.best_value, history.best_epoch = value, epoch
        best = {key: tensor.detach().clone() for key, tensor in task.weights().items()}
    return best


def _is_over(config: LoopConfig, history: History) -> bool:
    if history.epochs >= config.epochs:
        return True
    if not history.validations or history.epochs < config.min_epochs:
        return False
    return history.epochs - 1 - history.best_epoch >= config.patience


def _remark(
    history: History, epoch: int, validation: Validation | None, name: str, bar: tqdm[Any]
) -> None:
    """Tell what the last validation shows to be wrong, if that has not been told yet."""
    figures = list(history.validations.values())
    if validation is None or not figures:
        return
    found = {}
    if str(epoch) in history.validations:
        found = validation.trouble(figures)
    if history.finished:
        found |= validation.verdict(figures)
    for kind, text in found.items():
        if kind not in history.remarks:
            history.remarks[kind] = text
            bar.clear()
            level = logging.INFO if kind == "level" else logging.WARNING
            logger.log(level, "%s, epoch %d: %s", name, epoch + 1, text)


def _describe(history: History, select_by: SelectBy, validation: Validation | None) -> str:
    text = f"loss {history.losses[-1]:.4g}"
    if history.validations:
        of = str(select_by)
        if validation is not None and validation.n_users < validation.of_users:
            of += f", {validation.n_users:,} of {validation.of_users:,} users"
        last = list(history.validations.values())[-1]
        best = f"{history.best_value:.4f} @ epoch {history.best_epoch + 1}"
        text += f", valid ndcg@10 ({of}) {last:.4f} (best {best})"
    return text


def _checked_mean(
    losses: torch.Tensor, name: str, epoch: int, checkpoint: str | Path | None
) -> float:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"{name}: the loss became {float(losses[step])} at epoch {epoch + 1}, step {step + 1}; "
            + _advice(checkpoint)
        )
    return float(losses.double().mean())


def _infinite_from_the_start(task: TrainingTask, name: str, mesh: Mesh) -> set[str]:
    """Names of weights that are infinite before the training, such as an encoder's own mask.

    Raises:
        NonFiniteLossError: weights are NaN.
    """
    found = {key: largest(tensor) for key, tensor in task.weights().items()}
    bad = [key for key, value in found.items() if math.isnan(value)]
    if mesh.any(bool(bad)):
        which = bad[0] if bad else "of another process"
        raise NonFiniteLossError(
            f"{name}: the weights {which} are NaN before the first step; start from other weights"
        )
    return {key for key, value in found.items() if math.isinf(value)}


def _check_weights(
    task: TrainingTask,
    infinite: Collection[str],
    name: str,
    epoch: int,
    checkpoint: str | Path | None,
    mesh: Mesh,
) -> None:
    """Raises NonFiniteLossError where weights, or what the optimiser remembers of them, are no
    numbers to go on with.

    Args:
        infinite: names of weights that may be infinite.
    """
    bad = ""
    for key, tensor in task.weights().items():
        value = largest(tensor)
        if math.isnan(value) or (value > LARGEST_WEIGHT and key not in infinite):
            more = "NaN or infinite" if not math.isfinite(value) else f"{value:.1g}"
            bad = bad or f"the weights {key} became {more}"
    for key, tensor in task.state().items():  # with infinite moments weights stand still
        if not math.isfinite(largest(tensor)):
            bad = bad or f"{key} became NaN or infinite"
    if mesh.any(bool(bad)):
        bad = bad or "the weights of another process became NaN or infinite"
        raise NonFiniteLossError(
            f"{name}: {bad} at the last step of epoch {epoch + 1}; " + _advice(checkpoint)
        )


def _advice(checkpoint: str | Path | None) -> str:
    kept = "no checkpoint was written"
    if checkpoint is not None and bundle_exists(checkpoint):
        done = read_bundle(checkpoint, KIND)[0]["history"]["losses"]
        kept = f"the checkpoint after epoch {len(done)} is kept in {checkpoint}"
    return f"{kept}. Lower the learning rate, or check the data for extreme values."


def _save(
    task: TrainingTask,
    history: History,
    best: dict[str, torch.Tensor] | None,
    checkpoint: str | Path,
    identity: Mapping[str, Any],
    mesh: Mesh,
) -> None:
    files = {"weights": task.weights(), "state": task.state()}
    if best is not None:
        files["best"] = best
    if isinstance(task, ShardedTask):
        files = {name: _whole_on_first(task, tensors, mesh) for name, tensors in files.items()}
    meta = {"identity": identity, "history": asdict(history)}
    mesh.once(lambda: write_bundle(checkpoint, KIND, meta, files))


def _whole_on_first(
    task: ShardedTask, tensors: Mapping[str, torch.Tensor], mesh: Mesh
) -> dict[str, torch.Tensor]:
    """The whole tensors, one after the other, so that the others never have more than one."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        whole = task.whole({name: tensor})
        if mesh.is_first:
            found |= whole
    return found


def _resume(
    task: TrainingTask,
    checkpoint: str | Path,
    wanted: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> tuple[History, dict[str, torch.Tensor] | None]:
    meta, files = read_bundle(checkpoint, KIND)
    defaults = json.loads(json.dumps(dict(defaults)))
    found = with_current_defaults(meta["identity"], defaults, checkpoint)
    if found != wanted:
        differing = sorted(
            key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)
        )
        raise CheckpointError(
            f"{checkpoint}: belongs to another run (different {', '.join(differing)}); "
            "use another directory or delete it"
        )
    if isinstance(task, ShardedTask):
        files = {name: task.own(tensors) for name, tensors in files.items()}
    task.load_weights(files["weights"])
    task.load_state(files["state"])
    return History(**meta["history"]), files.get("best")
