"""Settings of the diffusion recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pdrec_fast.checks import (
    LARGEST,
    check_choices,
    check_counts,
    check_dropout,
    check_kinds,
    check_not_negative,
    check_positive,
    check_ratios,
    check_seed,
)
from pdrec_fast.diffusion.schedule import NoiseSchedule, ScheduleName, make_schedule
from pdrec_fast.fitting.loop import LoopConfig, SelectBy

Weighting = Literal["none", "rank", "interval", "decay", "half-life"]
Likelihood = Literal["gaussian", "multinomial"]
Prediction = Literal["x0", "eps"]
Target = Literal["all", "later"]
NoiseKind = Literal["gaussian", "mask"]
Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that defines a diffusion recommender; the defaults are the paper's for Toy.

    Attributes:
        weighting: ``"none"`` = DiffRec, ``"rank"`` = T-DiffRec, ``"interval"`` = TI-DiffRec;
            ``"decay"`` has the weights fall from the latest interaction back by the step,
            ``"half-life"`` by the time.
        w_min, w_max: bounds of the interaction weights.
        decay: of ``"decay"``: what is left of a weight above ``w_min`` one step further back; above
            0, at most 1.
        half_life: of ``"half-life"``: time in which half is left of it, in the unit of the
            timestamps; the default is 30 days in seconds.
        likelihood: of x_0 given the denoiser's prediction: ``"gaussian"`` is the squared error of
            DiffRec; ``"multinomial"`` takes the prediction as logits of a distribution over the
            corpus that the interactions are drawn from (Liang et al. 2018, arXiv:1802.05814). Its
            reverse process is one step, see ``DiffRec.scores``.
        hidden: widths of the denoiser's hidden layers.
        time_embedding: width of the step embedding.
        normalize_input: scale inputs to unit length.
        noise: what a step of the diffusion does to x_0: ``"gaussian"`` as in DiffRec; ``"mask"``
            drops interactions, at step t a share of ``dropout (t + 1) / steps`` of them (Austin et
            al. 2021, arXiv:2107.03006, absorbing states), and makes no dense vector.
        dropout: of the noised input, in training.
        schedule, steps, noise_scale, noise_min, noise_max, fix_first_beta: see ``make_schedule``.
        target: what the denoiser predicts x_0 of: ``"all"`` of a user's interactions, those that
            are noised, as DiffRec does; with ``"later"`` the noised ones lie before a random cut of
            the history, and the predicted ones weigh less with every step from it, by ``decay``.
        cut_every: of ``"later"``: a history has one cut for every so many interactions.
        earlier_weight: of ``"later"``: weight of what lies before the cut, relative to what comes
            after it; 0 predicts the latter alone.
        prediction: what the denoiser predicts, x_0 or the noise.
        snr_weighting: weight each step's error by its share of the variational bound; with
            ``noise="mask"`` by 1 / (t + 1) (Sahoo et al. 2024, arXiv:2406.07524, eq. 10, for shares
            that grow linearly).
        importance_sampling: draw steps by their recent losses.
        sampling_steps, sampling_noise: of inference, see ``dense_reverse``.
        lr, weight_decay, lr_decay: AdamW, with the rate multiplied by ``lr_decay`` every epoch.
        batch_size: users per step.
        epochs, patience, eval_every: see ``LoopConfig``; selection is by validation NDCG@10.
        select_by: evaluation protocol of that NDCG@10.
        validation_users: it is taken on at most so many users, a sample that ``seed`` fixes; 0: on
            all. The final test is always on all.
        skip_cold_items: leave items without any training record out of the histories that are
            scored: their weights are random, and would take the place of what is known.
        precision: of the large matrix products in training; weights, their update and inference
            are always fp32. ``"auto"`` is bf16 where the processor or GPU multiplies in it, which
            takes a fifth of the time on a CPU, else fp32.
        seed: of weights, order, noise and dropout.
    """

    weighting: Weighting = "interval"
    w_min: float = 0.5
    w_max: float = 1.0
    decay: float = 0.8
    half_life: float = 2_592_000.0
    likelihood: Likelihood = "gaussian"
    hidden: tuple[int, ...] = (1000,)
    time_embedding: int = 10
    normalize_input: bool = False
    noise: NoiseKind = "gaussian"
    dropout: float = 0.5
    schedule: ScheduleName = "linear-var"
    steps: int = 10
    noise_scale: float = 0.01
    noise_min: float = 0.0005
    noise_max: float = 0.005
    fix_first_beta: bool = True
    target: Target = "all"
    earlier_weight: float = 0.5
    cut_every: int = 8
    prediction: Prediction = "x0"
    snr_weighting: bool = True
    importance_sampling: bool = True
    sampling_steps: int = 0
    sampling_noise: bool = False
    lr: float = 5e-5
    weight_decay: float = 0.5
    lr_decay: float = 0.99
    batch_size: int = 400
    epochs: int = 1000
    patience: int = 10
    eval_every: int = 1
    select_by: SelectBy = "paper"
    validation_users: int = 0
    skip_cold_items: bool = False
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        check_choices(
            self,
            weighting=get_args(Weighting),
            likelihood=get_args(Likelihood),
            target=get_args(Target),
            noise=get_args(NoiseKind),
            prediction=get_args(Prediction),
            precision=get_args(Precision),
            schedule=get_args(ScheduleName),
            select_by=get_args(SelectBy),
        )
        check_seed(self)
        check_dropout(self)
        if not 0 <= self.sampling_steps <= self.steps:
            raise ValueError(
                f"sampling_steps must lie in 0 .. steps={self.steps}, got {self.sampling_steps}"
            )
        check_positive(self, "lr", "lr_decay", "batch_size", "decay", "half_life")
        check_ratios(self, "decay")
        check_not_negative(self, "weight_decay", "validation_users", "earlier_weight")
        check_counts(self, "time_embedding", "cut_every")
        if not (self.hidden and all(isinstance(n, int) and n >= 1 for n in self.hidden)):
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}")
        if not 0 <= self.w_min <= self.w_max <= LARGEST:
            raise ValueError(
                f"need 0 <= w_min <= w_max <= {LARGEST:g}, got w_min={self.w_min}, "
                f"w_max={self.w_max}"
            )
        if self.likelihood == "multinomial" and (
            self.prediction != "x0" or self.sampling_steps or self.sampling_noise
        ):
            raise ValueError(
                "likelihood='multinomial' predicts x_0 in one step: it needs prediction='x0', "
                "sampling_steps=0 and sampling_noise=False"
            )
        if self.target == "later" and self.prediction != "x0":
            raise ValueError("target='later' predicts x_0: it needs prediction='x0'")
        if self.noise == "mask" and (self.likelihood != "multinomial" or self.normalize_input):
            raise ValueError(
                "noise='mask' needs likelihood='multinomial' and normalize_input=False: there is "
                "no reverse process but in one step, and no dense vector to normalise"
            )
        # Both check their own arguments.
        self.noise_schedule()
        self.loop()

    def noise_schedule(self) -> NoiseSchedule:
        """The schedule these settings describe."""
        return make_schedule(
            self.schedule,
            self.steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            fix_first_beta=self.fix_first_beta,
        )

    def loop(self) -> LoopConfig:
        """When training stops."""
        return LoopConfig(self.epochs, self.patience, eval_every=self.eval_every)
