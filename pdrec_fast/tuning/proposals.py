"""What Optuna does in a search: it proposes settings, ends hopeless trials and keeps them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdrec_fast.errors import CheckpointError, MissingExtraError, WriteError
from pdrec_fast.fitting.history import History
from pdrec_fast.random_keys import proposal_seed
from pdrec_fast.tuning.results import COMPLETE, FAILED, PRUNED, Trial
from pdrec_fast.tuning.space import Dimension, Range, settings_of

_NAME = "search"
# A trial whose best value so far is below the median of the others' at the same epoch ends, but
# none before this epoch, and none before there are as many others to compare with.
_FIRST_PRUNED_EPOCH = 10
_FEWEST_OTHERS = 5


class Pruned(Exception):  # noqa: N818  # no error: the trial ends early
    """A trial is behind most others."""


def import_optuna() -> Any:
    """Optuna; a MissingExtraError says how to get it."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError(
            "searching for settings needs Optuna: pip install 'pdrec_fast[tune]'"
        ) from None
    return optuna


class Proposal:
    """Settings to be tried.

    Attributes:
        number: of the trial.
        settings: as ``--set`` names them.
    """

    def __init__(self, trial: Any, settings: dict[str, Any]) -> None:
        self.number: int = trial.number
        self.settings = settings
        self.trial = trial
        self._reported = 0

    def watch(self, history: History) -> None:
        """Raise ``Pruned`` where the training is not worth going on with."""
        values = list(_best_so_far(history).items())
        for epoch, value in values[self._reported :]:
            self.trial.report(value, epoch)
        self._reported = len(values)
        if self.trial.should_prune():
            raise Pruned


class Study:
    """The trials of a search, kept in a file of Optuna's; only finished ones are ever written.

    Every proposal comes from a sampler of its own, seeded by (seed, number of the trial), so that a
    search which was killed makes the proposals that it would have made.

    Args:
        path: SQLite file of Optuna's storage, made where there is none.
        starts: points of the space for the first trials.
    """

    def __init__(
        self,
        path: Path,
        space: Mapping[str, Dimension],
        starts: Sequence[dict[str, Any]],
        *,
        seed: int,
    ) -> None:
        self._optuna = import_optuna()
        self._space, self._starts, self._seed = space, starts, seed
        self._distributions = {
            key: self._distribution(dimension) for key, dimension in space.items()
        }
        self._verbosity = self._optuna.logging.get_verbosity()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._path = path
        with self._storing():
            self._storage = self._open(path)
            self._study = self._optuna.create_study(
                storage=self._storage, study_name=_NAME, direction="maximize", load_if_exists=True
            )

    def close(self) -> None:
        self._optuna.logging.set_verbosity(self._verbosity)
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def trials(self) -> list[Trial]:
        """The finished trials."""
        return [
            Trial(number=trial.number, value=trial.value, **trial.user_attrs)
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def propose(self) -> Proposal:
        """The next trial."""
        finished = self._study.get_trials(deepcopy=False)
        number = len(finished)
        optuna = self._optuna
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=proposal_seed(self._seed, number)),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_FEWEST_OTHERS,
                n_warmup_steps=_FIRST_PRUNED_EPOCH,
                n_min_trials=_FEWEST_OTHERS,
            ),
        )
        study.add_trials(finished)
        if number < len(self._starts):
            study.enqueue_trial(self._starts[number])
        trial = study.ask(self._distributions)
        return Proposal(trial, settings_of(trial.params, self._space))

    def keep(self, proposal: Proposal, state: str, history: History) -> None:
        """Store what came of a proposal."""
        optuna_state = {
            COMPLETE: self._optuna.trial.TrialState.COMPLETE,
            PRUNED: self._optuna.trial.TrialState.PRUNED,
            FAILED: self._optuna.trial.TrialState.FAIL,
        }[state]
        found = {
            "state": state,
            "best_epoch": history.best_epoch + 1,
            "epochs": history.epochs,
            "seconds": round(history.seconds, 3),
            "settings": proposal.settings,
        }
        trial = self._optuna.trial.create_trial(
            state=optuna_state,
            value=None if state == FAILED else history.best_value,
            params=proposal.trial.params,
            distributions=self._distributions,
            user_attrs=found,
            intermediate_values=_best_so_far(history),
        )
        with self._storing():
            self._study.add_trial(trial)

    def _distribution(self, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        if isinstance(dimension, Range):
            return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        return distributions.CategoricalDistribution(dimension.values)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """SQLite's words for a full disk or a lost permission, in one line."""
        import sqlalchemy  # Optuna's own requirement

        try:
            yield
        except sqlalchemy.exc.OperationalError as error:
            raise self._unwritable(error.orig) from None
        except self._optuna.exceptions.StorageInternalError as error:
            raise self._unwritable(getattr(error.__cause__, "orig", error)) from None

    def _unwritable(self, why: object) -> WriteError:
        return WriteError(
            f"{self._path}: cannot be written: {why}; make room, or see to the permissions, and "
            "give the same command again: the search continues"
        )

    def _open(self, path: Path) -> Any:
        import sqlalchemy

        url = sqlalchemy.URL.create("sqlite", database=str(path.resolve()))
        try:
            return self._optuna.storages.RDBStorage(url.render_as_string())
        except sqlalchemy.exc.OperationalError:
            raise
        except sqlalchemy.exc.DatabaseError as error:
            raise CheckpointError(
                f"{path}: damaged ({error.orig}); delete the directory and search again"
            ) from None


def _best_so_far(history: History) -> dict[int, float]:
    """Best value at every epoch (from 1) that was validated."""
    best, found = 0.0, {}
    for epoch, value in history.validations.items():
        best = max(best, value)
        found[int(epoch) + 1] = best
    return found
