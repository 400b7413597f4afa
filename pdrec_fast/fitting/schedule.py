"""The learning rate as a function of epoch and step alone, so that a resumed run takes the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LRSchedule = Literal["exponential", "cosine"]


@dataclass(frozen=True)
class LearningRate:
    """The rate of every step of a training.

    Warm-up: steps 0 .. ``warmup_steps`` - 1 of the whole training take (step + 1) / warmup_steps of
    the rate, as in Goyal et al. 2017 (arXiv:1706.02677, section 2.2).

    Attributes:
        lr: the highest rate.
        schedule: ``"exponential"``: ``lr * lr_decay**epoch``. ``"cosine"``: after the warm-up,
            ``lr * (1 + cos(pi p)) / 2``, p the share of the steps after it that are done, so that
            the rate reaches 0 at the end of ``epochs`` (Loshchilov & Hutter 2017,
            arXiv:1608.03983, eq. 5, without restarts).
        lr_decay: of the exponential schedule; the cosine does not use it.
        warmup_steps: 0 is none.
        epochs, n_steps: of the training, and steps of each.
    """

    lr: float
    schedule: LRSchedule
    lr_decay: float
    warmup_steps: int
    epochs: int
    n_steps: int

    @property
    def varies_within_epochs(self) -> bool:
        """Whether steps of one epoch may have different rates."""
        return self.schedule == "cosine" or self.warmup_steps > 0

    def at(self, epoch: int, step: int) -> float:
        """The rate of a step; both count from 0, ``step`` within its epoch."""
        done = epoch * self.n_steps + step
        rate = self.lr
        if self.schedule == "exponential":
            rate = self.lr * self.lr_decay**epoch
        if done < self.warmup_steps:
            return rate * (done + 1) / self.warmup_steps
        if self.schedule == "cosine":
            left = self.epochs * self.n_steps - self.warmup_steps
            rate *= 0.5 * (1 + math.cos(math.pi * (done - self.warmup_steps) / left))
        return rate
