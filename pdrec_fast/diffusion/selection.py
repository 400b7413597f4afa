"""What the epochs of a model over interaction vectors are selected on."""

from __future__ import annotations

from typing import Protocol

from pdrec_fast.data import Split
from pdrec_fast.evaluation import Evaluator, validation_sample
from pdrec_fast.fitting.loop import SelectBy
from pdrec_fast.fitting.validation import Validation
from pdrec_fast.ranks import ALONE, Mesh


class Selection(Protocol):
    """The settings that decide it."""

    @property
    def lr(self) -> float: ...

    @property
    def select_by(self) -> SelectBy: ...

    @property
    def validation_users(self) -> int: ...

    @property
    def seed(self) -> int: ...


def validation_on(
    split: Split, config: Selection, mesh: Mesh = ALONE
) -> tuple[Evaluator, Validation]:
    """What gives the validation figure on ``split``, and what it is held against."""
    sample = validation_sample(split, config.validation_users, config.seed)
    evaluator = Evaluator(sample, mesh=mesh)
    advice = (
        f"change the learning rate (lr, {config.lr:g} here): a lower one where the loss is "
        "restless, a higher one or more epochs where it hardly falls"
    )
    popularity = evaluator.popularity_ndcg_at_10(config.select_by)
    sizes = len(evaluator.split.valid), len(split.valid)
    return evaluator, Validation(*sizes, popularity, advice)
