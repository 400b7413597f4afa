"""PDRec: a sequence encoder trained with the guidance of a diffusion model's preferences."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pdrec_fast.baselines import ItemKNN
from pdrec_fast.data import Interactions, Split
from pdrec_fast.data.storage import interactions_from_tensors, interactions_to_tensors
from pdrec_fast.deprecation import renamed_keywords
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion import Codigem, DiffRec, LatentDiffRec, LinearDenoiser
from pdrec_fast.encoders import (
    ENCODER_CONFIGS,
    ENCODERS,
    ContrastiveEncoder,
    EncoderConfig,
    EncoderOptions,
    PrefixEncoder,
    encoder_config,
)
from pdrec_fast.encoders.featured import with_features
from pdrec_fast.errors import CheckpointError, one_line
from pdrec_fast.evaluation import Evaluator, Popularity, Scorer, validation_sample
from pdrec_fast.export import export_model
from pdrec_fast.fitting.bundle import Contents, making, read_bundle, write_bundle
from pdrec_fast.fitting.callbacks import Callback, OnEpochEnd
from pdrec_fast.fitting.finite import check_parameters
from pdrec_fast.fitting.history import History
from pdrec_fast.fitting.loop import run_loop
from pdrec_fast.fitting.validation import Validation
from pdrec_fast.fitting.warm_start import weights_fingerprint
from pdrec_fast.fusion import Fusion, Share, choose_shares
from pdrec_fast.fusion.fusion import check_trained_on
from pdrec_fast.fusion.levels import with_levels
from pdrec_fast.fusion.storage import fusion_contents, fusion_from_contents
from pdrec_fast.isolation import drawing_from, own_settings, seeded_globally
from pdrec_fast.preferences import Preferences
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.settings_format import FORMAT, with_current_defaults
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.guidance import Guidance, check_preferences
from pdrec_fast.training.scoring import EncoderScorer
from pdrec_fast.training.starting import check_guides, start_from
from pdrec_fast.training.task import PDRecTask

EncoderFactory = Callable[[int], nn.Module]


class PDRec(EncoderScorer):
    """A sequential recommender guided by PDRec's modules, or plain with ``modules=()``.

    Args:
        encoder: name of a built-in encoder (``"sasrec"``, ``"gru4rec"``, ...: the keys of
            ``encoders.ENCODERS``), or a function that makes a ``SequenceEncoder`` for a number of
            items. A function's encoder draws weights and dropout from torch's own generators: they
            are seeded and put back, and such encoders take turns, but a thread of yours that draws
            meanwhile changes its numbers, and gets some of them. Built-in encoders have generators
            of their own.
        config: all settings; keyword arguments override single ones, e.g.
            ``PDRec("sasrec", modules=("hbr", "nns"), seed=1)``.
        encoder_options: of a built-in encoder: its configuration, such as
            ``SASRecConfig(width=32)``, or single options, ``{"width": 32}``.
        device: where it is trained and scores: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...;
            ``"auto"`` is a GPU where there is one. Saved models and checkpoints go from one to
            another.
        cuda_graphs: on a GPU, record a training step as a graph and replay it: small encoders
            otherwise wait for the host. For SASRec, and encoders of your own that read nothing back
            to the host; see ``SequenceEncoder``.
    """

    KIND = "PDRec model"

    def __init__(
        self,
        encoder: str | EncoderFactory = "sasrec",
        config: PDRecConfig | None = None,
        *,
        encoder_options: EncoderOptions | None = None,
        device: str | torch.device = "auto",
        cuda_graphs: bool = False,
        **settings: Any,
    ) -> None:
        if isinstance(encoder, str) and encoder not in ENCODERS:
            raise ValueError(f"unknown encoder={encoder!r}; choose one of {sorted(ENCODERS)}")
        if isinstance(encoder, nn.Module):
            raise TypeError(
                "pass the encoder's class, or a function that makes one for a number of items, not "
                f"a finished {type(encoder).__name__}: PDRec seeds and builds it"
            )
        if encoder_options and not isinstance(encoder, str):
            raise ValueError("encoder_options are for built-in encoders; set yours in the function")
        self.config = replace(config or PDRecConfig(), **settings)
        self.device = resolve_device(device)
        if cuda_graphs and self.device.type != "cuda":
            raise ValueError(f"cuda_graphs=True needs a GPU, the device is {self.device.type!r}")
        self.cuda_graphs = cuda_graphs
        self.encoder_spec = encoder
        self.encoder_options: EncoderConfig | None = None  # of a built-in encoder
        if isinstance(encoder, str):
            self.encoder_options = encoder_config(encoder, encoder_options)
        self.encoder: nn.Module | None = None
        self.data: Interactions | None = None
        self.history: History | None = None
        self.trained_on: str | None = None  # fingerprint of the training interactions
        self.trained_items: np.ndarray | None = None  # bool [n_items], those in them
        self.fusion: Fusion | None = None  # what other scorers add, with "fusion" in the modules
        self.fusion_seconds = 0.0  # that choosing its shares took
        self._item_vectors: torch.Tensor | None = None  # where prepared

    @renamed_keywords(watch="on_epoch_end")
    @own_settings(training=True)
    def fit(
        self,
        train: Split | Interactions,
        preferences: Preferences | None = None,
        *,
        guides: Mapping[str, Scorer] | None = None,
        shares: Mapping[str, Share] | None = None,
        warm_start: PDRec | None = None,
        epochs: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = True,
        on_epoch_end: OnEpochEnd | None = None,
        callbacks: Sequence[Callback] = (),
        mesh: Mesh = ALONE,
    ) -> PDRec:
        """Train the encoder.

        Args:
            train: a split, trained on ``train.train`` with early stopping on ``train.valid``; or
                plain interactions, all trained on for ``config.epochs`` epochs.
            preferences: inferred on the same training interactions; needed by every module but
                ``"fusion"``.
            guides: name -> scorer, such as ``{"diffusion": diffusion}``, fitted on the same
                training interactions; what ``"fusion"`` adds to the logits once the encoder is
                trained, by shares chosen on validation.
            shares: what each guide adds, instead of choosing it: those of a model fitted on a part
                of these interactions, ``selected.fusion.shares``; its levels are found anew.
            warm_start: a fitted model whose encoder's weights are the start: rows of items that it
                knows, by raw id, and everything that is not an item's; new items start as in a new
                model, and so does the optimiser. It may be this model. What a split holds out
                should not have been trained on by it.
            epochs: train for so many at most, of ``config.epochs`` that the learning rate is
                planned for; None for all.
            checkpoint: directory to resume from and to write to.
            progress: show a bar of the epochs.
            on_epoch_end: called with the history after every epoch, and first with that of a
                checkpoint; an exception from it ends the training and leaves no model.
            callbacks: see ``run_loop``.
            mesh: the processes that train together, each of which makes this call with the same
                arguments and has the whole model at its end (``docs/ranks.md``).

        Raises:
            ValueError: a module is on and ``preferences`` is missing or of other data, or
                ``"fusion"`` is and there are no guides, or neither a validation split nor shares;
                ``warm_start`` has other shapes or no item in common; ``epochs`` is out of range.
            TypeError: ``warm_start`` is no ``PDRec``, or ``shares`` are no mapping of ``Share``.
            NonFiniteLossError, CheckpointError, RankLostError: see ``run_loop``.
        """
        split = train if isinstance(train, Split) else None
        interactions = train.train if isinstance(train, Split) else train
        check_preferences(self.config, interactions, preferences)
        check_guides(self, interactions, split, guides, shares)
        loop = self.config.loop().up_to(epochs)
        evaluator = validation = None
        if split is not None:
            evaluator, validation = self._validation(split, mesh)
        identity = self._identity(interactions, split, preferences)
        if epochs is not None:
            identity["epochs"] = epochs
        data = split.data if split else interactions
        trained_items = np.bincount(interactions.items, minlength=interactions.n_items) > 0
        encoder = self.encoder_for(train)
        if warm_start is not None:
            start_from(warm_start, self, encoder, interactions.item_ids)
            identity["warm start"] = warm_start.fingerprint()
        self.encoder = encoder
        self._item_vectors = self.fusion = None
        self.data, self.trained_items = data, trained_items
        try:
            task = self.training_task(interactions, preferences, evaluator, mesh)
            self.history = run_loop(
                task,
                loop,
                name=self.name,
                select_by=self.config.select_by,
                identity=identity,
                defaults=_defaults(self.encoder_spec),
                validation=validation,
                checkpoint=checkpoint,
                progress=progress,
                on_epoch_end=on_epoch_end,
                callbacks=callbacks,
                mesh=mesh,
            )
            task.join_table()
        except BaseException:
            self.encoder = None  # half-trained weights are no model
            raise
        self.trained_on = interactions.fingerprint()
        if guides and shares is not None:
            fusion, histories = Fusion(guides, shares), interactions.histories()
            self.fusion = with_levels(fusion, self, histories, data.target_items)
        elif guides and split is not None:
            self.fuse(guides, split, progress=progress, mesh=mesh)
        return self

    @own_settings()
    def fuse(
        self,
        guides: Mapping[str, Scorer],
        split: Split,
        *,
        progress: bool = True,
        mesh: Mesh = ALONE,
    ) -> PDRec:
        """Choose anew what each of ``guides`` adds to the logits; see ``fusion.choose_shares``.

        Raises:
            ValueError: see ``fit``; or the model was fitted on other interactions than the split's
                training part.
        """
        check_guides(self, split.train, split, guides)
        check_trained_on(self, split.train, "this model")
        config, started = self.config, time.monotonic()
        self.fusion = choose_shares(
            self.without_fusion(),
            guides,
            validation_sample(split, config.validation_users, config.seed),
            select_by=config.fusion_select_by,
            progress=progress,
            mesh=mesh,
        )
        self.fusion_seconds = time.monotonic() - started
        return self

    def without_fusion(self) -> PDRec:
        """This model without what its guides add to the logits; the encoder is the same one."""
        alone = copy(self)
        alone.fusion = None
        return alone

    def training_task(
        self,
        train: Interactions,
        preferences: Preferences | None = None,
        evaluator: Evaluator | None = None,
        mesh: Mesh = ALONE,
    ) -> PDRecTask:
        """What ``fit`` runs epoch by epoch, on this model's encoder."""
        encoder = self.fitted_encoder()
        return PDRecTask(
            encoder,
            self.objective,
            Guidance(train, preferences, self.config, max_length=encoder.max_length),
            device=self.device,
            scorer=self,
            evaluator=evaluator,
            cuda_graphs=self.cuda_graphs,
            mesh=mesh,
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any weight or setting of the encoder."""
        settings = json.dumps(self._description(), sort_keys=True)
        return weights_fingerprint(self.fitted_encoder().state_dict(), settings)

    @property
    def name(self) -> str:
        """For tables: the encoder and the modules that guide it, e.g. ``sasrec+hbr+nns``."""
        return "+".join([self._encoder_name, *self.config.modules])

    def export(
        self, path: str | Path, *, fusion: bool = True, k: int = 100, onnx: bool = True
    ) -> None:
        """Write the model for programs without this package; see docs/serving.md.

        Both programs, as torch.export's ``.pt2`` and as ONNX, read padded ids of any number and
        length of histories: ``recommender`` gives the scores and the best items, ``encoder`` user
        vectors whose products with the item matrix are the scores, or the part of them that the
        card (``card.json``) names.

        Args:
            path: directory; written whole or not at all, an earlier export is replaced.
            fusion: with what the guides add to the logits.
            k: how many items the recommender gives; the catalogue's number where that is smaller.
            onnx: False leaves the ONNX files out.

        Raises:
            NotFittedError: the model is not fitted.
            ExportError: the encoder or a guide cannot be traced; names it and what to do.
            MissingExtraError: a package that writes ONNX files is not installed.
            CheckpointError: something other than an export lies at ``path``.
            ValueError: ``k`` is below 1.
        """
        self.fitted_encoder()
        export_model(self, path, fusion=fusion, k=k, onnx=onnx)

    def save(self, path: str | Path) -> None:
        """Write model and interactions to the directory ``path`` (see ``fitting.bundle``).

        Raises:
            CheckpointError: something other than a bundle lies at ``path``, or a guide of the
                fusion is no model of this package.
        """
        write_bundle(path, self.KIND, *self.contents())

    def contents(self) -> Contents:
        """What ``save`` writes: JSON values, and tensors by file."""
        encoder, data = self.fitted_encoder(), self.interactions()
        check_parameters(encoder, self.name)
        tensors, ids = interactions_to_tensors(data)
        if self.trained_items is not None:
            tensors["trained_items"] = torch.from_numpy(self.trained_items)
        meta = self._description() | {"ids": ids, "trained_on": self.trained_on}
        if self.history is not None:
            meta["history"] = asdict(self.history)
        files = {"weights": dict(encoder.state_dict()), "interactions": tensors}
        if self.fusion is not None:
            meta["fusion"], more = fusion_contents(self.fusion)
            files |= more
        return meta, files

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        encoder: EncoderFactory | None = None,
        device: str | torch.device = "auto",
    ) -> PDRec:
        """Read a model written by ``save``, onto any device.

        Args:
            encoder: the function that made the encoder, if it was not a built-in one.
            device: see the constructor.

        Raises:
            CheckpointError: missing, damaged, or no PDRec model; or ``encoder`` is needed.
        """
        with making(path):
            contents = read_bundle(path, cls.KIND)
            return cls.from_contents(contents, path, encoder=encoder, device=device)

    @classmethod
    @own_settings(training=True)
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        encoder: EncoderFactory | None = None,
        device: str | torch.device = "auto",
    ) -> PDRec:
        """The model of ``contents``; ``path`` is named in errors. See ``load``."""
        meta, files = contents
        meta = with_current_defaults(meta, _defaults(meta["encoder"]), path)
        if encoder is None and meta["own_encoder"]:
            raise CheckpointError(
                f"{path}: the model has its own encoder {meta['encoder']!r}; pass the function "
                "that makes it: PDRec.load(path, encoder=...)"
            )
        spec = meta["encoder"] if encoder is None else encoder
        options = meta["encoder_options"] if encoder is None else None
        model = cls(spec, PDRecConfig(**meta["config"]), encoder_options=options, device=device)
        model.data = interactions_from_tensors(files["interactions"], meta["ids"])
        if "trained_items" in files["interactions"]:
            model.trained_items = files["interactions"]["trained_items"].numpy()
        model.encoder = model._encoder_of(model.data, model.trained_items)
        try:
            model.encoder.load_state_dict(files["weights"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: weights do not fit the encoder: {one_line(error)}"
            ) from None
        model.history = History(**meta["history"]) if "history" in meta else None
        model.trained_on = meta["trained_on"]
        if "fusion" in meta:
            kinds = (DiffRec, LinearDenoiser, Popularity, ItemKNN, Codigem, LatentDiffRec, PDRec)
            model.fusion = fusion_from_contents(meta["fusion"], files, kinds, path, device)
        return model

    def _validation(self, split: Split, mesh: Mesh) -> tuple[Evaluator, Validation]:
        config = self.config
        sample = validation_sample(split, config.validation_users, config.seed)
        evaluator = Evaluator(sample, mesh=mesh)
        advice = (
            f"try another learning rate (lr, {config.lr:g} here): a lower one, with a slow rise "
            f"(warmup_steps, {config.warmup_steps} here) and clipping (clip_norm=1), where the "
            "loss jumps or rises; a higher one, or more epochs, where it hardly falls"
        )
        popularity = evaluator.popularity_ndcg_at_10(config.select_by)
        sizes = len(evaluator.split.valid), len(split.valid)
        return evaluator, Validation(*sizes, popularity, advice)

    @property
    def _encoder_name(self) -> str:
        spec = self.encoder_spec
        return spec if isinstance(spec, str) else getattr(spec, "__name__", "custom")

    def _description(self) -> dict[str, Any]:
        options = self.encoder_options
        return {
            "format": FORMAT,
            "encoder": self._encoder_name,
            "own_encoder": options is None,
            "encoder_options": {} if options is None else asdict(options),
            "config": asdict(self.config),
        }

    def _identity(
        self, train: Interactions, split: Split | None, preferences: Preferences | None
    ) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued."""
        used = preferences if self.config.training_modules else None
        return self._description() | {
            "data": train.fingerprint(),
            "validation data": split.data.fingerprint() if split else None,
            "preferences": used.fingerprint() if used else None,
        }

    @own_settings(training=True)
    def new_encoder(self, n_items: int) -> Any:
        """An encoder with fresh weights, which depend on ``config.seed``, on this model's device;
        checked for use here."""
        spec = self.encoder_spec
        # Made on the CPU, so that the weights are the same on every device.
        if isinstance(spec, str):
            with drawing_from(torch.Generator().manual_seed(self.config.seed)):
                encoder: Any = ENCODERS[spec](n_items, self.encoder_options)
        else:
            with seeded_globally(self.config.seed, self.device):
                encoder = spec(n_items)
        self._check_encoder(encoder, n_items)
        if self.config.learn_temperature:
            if hasattr(encoder, "log_temperature"):
                raise ValueError(
                    f"learn_temperature=True: the encoder {self._encoder_name!r} has an attribute "
                    "log_temperature, where the temperature is kept; call it something else"
                )
            start = torch.tensor(math.log(self.config.temperature), dtype=torch.float32)
            encoder.register_parameter("log_temperature", nn.Parameter(start))
        return encoder.to(self.device)

    def encoder_for(self, train: Split | Interactions) -> Any:
        """The encoder that ``fit`` begins with, before a warm start."""
        data, part = (train.data, train.train) if isinstance(train, Split) else (train, train)
        return self._encoder_of(data, np.bincount(part.items, minlength=part.n_items) > 0)

    def _encoder_of(self, data: Interactions, trained_items: np.ndarray | None) -> Any:
        """A new encoder that makes items of their features, where the data have some."""
        encoder = self.new_encoder(data.n_items)
        if data.item_features is not None:
            assert trained_items is not None
            with_features(encoder, data.item_features, trained_items, self.config.seed)
        return encoder

    def _check_encoder(self, encoder: Any, n_items: int) -> None:
        name = self._encoder_name
        # Not isinstance: from Python 3.12 on it does not see the parts of a torch module.
        if not (hasattr(encoder, "item_embedding") and hasattr(encoder, "max_length")):
            raise ValueError(
                f"encoder {name!r} makes a {type(encoder).__name__} without "
                "item_embedding or max_length; see SequenceEncoder"
            )
        if encoder.item_embedding.num_embeddings != n_items:
            raise ValueError(
                f"encoder {name!r} has an item_embedding of "
                f"{encoder.item_embedding.num_embeddings} rows; it needs one for each of "
                f"{n_items} items and none for padding"
            )
        special = isinstance(encoder, ContrastiveEncoder | PrefixEncoder)
        if self.cuda_graphs and (special or not getattr(encoder, "recordable", True)):
            raise ValueError(
                f"cuda_graphs=True: the steps of encoder {name!r} depend on the lengths of each "
                "batch's sequences and cannot be recorded; set cuda_graphs=False"
            )


def _defaults(encoder: str | EncoderFactory) -> dict[str, Any]:
    """What descriptions of a model say where nothing was set."""
    kind = ENCODER_CONFIGS.get(encoder) if isinstance(encoder, str) else None
    options = {} if kind is None else asdict(kind())
    return {"encoder_options": options, "config": asdict(PDRecConfig())}
