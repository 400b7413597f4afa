"""Settings of PDRec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pdrec_fast.checks import (
    check_choices,
    check_kinds,
    check_not_negative,
    check_positive,
    check_ratios,
    check_seed,
)
from pdrec_fast.fitting.loop import LoopConfig, SelectBy
from pdrec_fast.fitting.schedule import LearningRate, LRSchedule
from pdrec_fast.fusion import SelectFusionBy

Module = Literal["hbr", "dpa", "nns", "fusion"]
MODULES: tuple[Module, ...] = ("hbr", "dpa", "nns")
"""The paper's; ``"fusion"`` is this package's own, and changes no training."""
ALL_MODULES: tuple[Module, ...] = get_args(Module)
Similarity = Literal["cosine", "dot"]
Loss = Literal["bce", "gbce", "softmax", "shared_softmax", "corpus_softmax"]
NegativeSampling = Literal["uniform", "popularity"]
TableOptimizer = Literal["dense", "rows"]


@dataclass(frozen=True)
class PDRecConfig:
    """Everything besides the encoder that defines a training run; defaults are the paper's for Toy.

    Attributes:
        modules: which modules guide the encoder, the paper's HBR, DPA and NNS in its training and
            ``"fusion"`` in its scores (see ``fusion``); empty is the plain backbone.
        similarity, temperature: how states and items make logits, see ``item_logits``.
        loss: of the ranking, see ``Objective``: ``"bce"`` is the paper's (eq. 4), ``"gbce"`` that
            of gSASRec; ``"softmax"`` sets every positive against its own negatives,
            ``"shared_softmax"`` against many that the batch shares, ``"corpus_softmax"`` against
            all items.
        learn_temperature: train the temperature with the weights, from ``temperature`` on.
        gbce_calibration: t of gBCE, from 0 (plain BCE) to 1 (probabilities are calibrated).
        shared_negatives: K of ``"shared_softmax"``, drawn anew for every step.
        negative_sampling: how those are drawn: ``"uniform"``, or in proportion to an item's
            training records; the logits are corrected for either (log Q).
        hbr_rank_weight, hbr_clip, hbr_rescale: ω_r, c_w and ω_f of HBR.
        dpa_top_n, dpa_weight: n of DPA and the weight ω_d of its loss (eq. 6). Its m is set where
            the preferences are inferred.
        fusion_select_by: protocol whose validation NDCG@10 the shares of ``"fusion"`` are chosen
            by: ``"paper"``, ``"full"``, or ``"both"``, the smaller one of the relative gains.
        dpa_start: the epoch, from 0, from which DPA's loss counts; an untrained encoder
            ranks the soft positives at random.
        random_negatives, safe_negatives: negatives per positive, drawn uniformly from what the user
            has not interacted with in training, and (with ``nns``) from the pool of eq. 3.
            ``"shared_softmax"`` adds the safe ones to its own and draws no other.
        skip_cold_items: leave items without any training record out of the histories that are
            scored. Their embeddings have been negatives, but never inputs.
        rank_cold_items: False gives those items the logit -inf and draws no shared negative among
            them: nothing has been learned of them but that they were negatives, if they were drawn
            at all, and where they are many, some random vector is near every state.
        windows: train on all records of users who have more than the encoder's ``max_length``: the
            earlier ones make sequences of their own. False takes the latest alone. DPA, and losses
            on views, meet each user once an epoch: in the step that has the latest sequence.
        lr: of Adam (betas .9, .98), at its highest.
        lr_schedule, lr_decay, warmup_steps: how the rate changes, see ``LearningRate``:
            ``"exponential"`` multiplies it by ``lr_decay`` every epoch, ``"cosine"`` lets it fall
            to 0 over ``epochs``; in the first ``warmup_steps`` steps it rises linearly.
        weight_decay: decoupled (AdamW): every step takes ``lr * weight_decay`` of all weights away.
        clip_norm: largest L2 norm of all gradients together, longer ones are scaled down; 0: any.
        table_optimizer: which rows of the item table a step moves: with ``"dense"`` all of them,
            as Adam's running means go on without a gradient; with ``"rows"`` those of the batch's
            items alone, as ``torch.optim.SparseAdam`` does, which costs much less where items are
            many. They are different rules and give different models.
        batch_size, min_steps: users (with ``windows`` sequences) per step, and fewer where they
            would make less than so many steps in an epoch; see ``users_per_step``.
        epochs, patience, min_epochs, eval_every: see ``LoopConfig``; selection is by validation
            NDCG@10.
        select_by: evaluation protocol of that NDCG@10.
        validation_users: it is taken on at most so many users, a sample that ``seed`` fixes; 0: on
            all. The final test is always on all.
        seed: of weights, order, dropout and random negatives.
    """

    modules: tuple[Module, ...] = MODULES
    similarity: Similarity = "cosine"
    temperature: float = 5.0
    learn_temperature: bool = False
    loss: Loss = "bce"
    gbce_calibration: float = 0.75
    shared_negatives: int = 1024
    negative_sampling: NegativeSampling = "uniform"
    hbr_rank_weight: float = 0.1
    hbr_clip: float = 3.0
    hbr_rescale: float = 2.0
    dpa_top_n: int = 5
    dpa_weight: float = 0.3
    dpa_start: int = 0
    fusion_select_by: SelectFusionBy = "both"
    random_negatives: int = 1
    safe_negatives: int = 1
    skip_cold_items: bool = False
    rank_cold_items: bool = True
    windows: bool = False
    lr: float = 5e-3
    lr_schedule: LRSchedule = "exponential"
    lr_decay: float = 0.99
    table_optimizer: TableOptimizer = "dense"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    batch_size: int = 128
    min_steps: int = 0
    epochs: int = 300
    patience: int = 20
    min_epochs: int = 0
    eval_every: int = 1
    select_by: SelectBy = "paper"
    validation_users: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        unknown = [name for name in self.modules if name not in ALL_MODULES]
        if unknown:
            raise ValueError(f"unknown modules {unknown}; choose among {ALL_MODULES}")
        # One canonical order, so that equal settings compare equal.
        object.__setattr__(self, "modules", tuple(m for m in ALL_MODULES if m in self.modules))
        check_choices(
            self,
            similarity=get_args(Similarity),
            loss=get_args(Loss),
            fusion_select_by=get_args(SelectFusionBy),
            negative_sampling=get_args(NegativeSampling),
            lr_schedule=get_args(LRSchedule),
            select_by=get_args(SelectBy),
            table_optimizer=get_args(TableOptimizer),
        )
        check_seed(self)
        check_not_negative(self, "dpa_weight", "dpa_start", "random_negatives", "min_steps")
        check_not_negative(self, "warmup_steps", "weight_decay", "clip_norm", "validation_users")
        if self.dpa_start and self.dpa_start >= self.epochs:
            raise ValueError(
                f"dpa_start={self.dpa_start}: in {self.epochs} epochs DPA never counts"
            )
        check_ratios(self, "hbr_rank_weight", "gbce_calibration")
        check_positive(self, "temperature", "hbr_rescale", "dpa_top_n")
        if not self.hbr_clip > 0:  # infinity clips nothing
            raise ValueError(f"hbr_clip must be positive, got {self.hbr_clip}")
        check_positive(self, "safe_negatives", "shared_negatives", "lr", "lr_decay", "batch_size")
        if self.loss == "corpus_softmax" and "nns" in self.modules:
            raise ValueError(
                "loss='corpus_softmax' has every item as a negative, so NNS has none to add: "
                "leave 'nns' out of modules, or choose loss='shared_softmax'"
            )
        if self.learn_temperature and self.similarity != "cosine":
            raise ValueError(
                "learn_temperature=True needs similarity='cosine': the vectors of a dot product "
                "have their own scale"
            )
        if self.random_negatives == 0 and self.own_negatives and "nns" not in self.modules:
            raise ValueError(
                f"random_negatives={self.random_negatives}: without nns at least 1 is needed"
            )
        self.loop()

    def users_per_step(self, n_users: int) -> int:
        """Users of every step but the last, of the ``n_users`` that are trained on; sequences of
        both with ``windows``."""
        if not self.min_steps:
            return self.batch_size
        return max(min(self.batch_size, n_users // self.min_steps), 1)

    @property
    def training_modules(self) -> tuple[Module, ...]:
        """Those that take preferences into the training: all but the fusion."""
        return tuple(module for module in self.modules if module in MODULES)

    @property
    def own_negatives(self) -> bool:
        """Whether random negatives are drawn for every positive, and not for a whole step."""
        return self.loss in ("bce", "gbce", "softmax")

    def loop(self) -> LoopConfig:
        """When training stops; checks its own arguments."""
        return LoopConfig(self.epochs, self.patience, self.min_epochs, self.eval_every)

    def learning_rate(self, n_steps: int) -> LearningRate:
        """The rate of every step, of ``n_steps`` an epoch."""
        return LearningRate(
            self.lr, self.lr_schedule, self.lr_decay, self.warmup_steps, self.epochs, n_steps
        )
