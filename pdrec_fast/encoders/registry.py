"""The built-in encoders by name, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from pdrec_fast.encoders.bert4rec import BERT4Rec, BERT4RecConfig
from pdrec_fast.encoders.caser import Caser, CaserConfig
from pdrec_fast.encoders.cl4srec import CL4SRec, CL4SRecConfig
from pdrec_fast.encoders.diffrec_star import DiffRecStar, DiffRecStarConfig
from pdrec_fast.encoders.diffurec import DiffuRec, DiffuRecConfig
from pdrec_fast.encoders.gru4rec import GRU4Rec, GRU4RecConfig
from pdrec_fast.encoders.hstu import HSTU, HSTUConfig
from pdrec_fast.encoders.ligr import LiGR, LiGRConfig
from pdrec_fast.encoders.mlp4rec import MLP4Rec, MLP4RecConfig
from pdrec_fast.encoders.sasrec import SASRec, SASRecConfig
from pdrec_fast.encoders.transformer import TransformerConfig
from pdrec_fast.settings import with_fields

EncoderConfig = SASRecConfig | GRU4RecConfig | TransformerConfig | CaserConfig | MLP4RecConfig
EncoderOptions = EncoderConfig | Mapping[str, Any]

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "bert4rec": BERT4Rec,
    "caser": Caser,
    "cl4srec": CL4SRec,
    "diffrec-star": DiffRecStar,
    "diffurec": DiffuRec,
    "gru4rec": GRU4Rec,
    "hstu": HSTU,
    "ligr": LiGR,
    "mlp4rec": MLP4Rec,
    "sasrec": SASRec,
}
ENCODER_CONFIGS: dict[str, type[EncoderConfig]] = {
    "bert4rec": BERT4RecConfig,
    "caser": CaserConfig,
    "cl4srec": CL4SRecConfig,
    "diffrec-star": DiffRecStarConfig,
    "diffurec": DiffuRecConfig,
    "gru4rec": GRU4RecConfig,
    "hstu": HSTUConfig,
    "ligr": LiGRConfig,
    "mlp4rec": MLP4RecConfig,
    "sasrec": SASRecConfig,
}


def encoder_config(name: str, options: EncoderOptions | None) -> EncoderConfig:
    """The options of a built-in encoder, checked.

    Args:
        name: one of ``ENCODERS``.
        options: its own configuration; a mapping, whose other options have their defaults; or the
            configuration of another encoder, of which what is not at its default is taken over.

    Raises:
        ValueError: an option that the encoder does not have, of another type or out of its range.
    """
    kind = ENCODER_CONFIGS[name]
    if type(options) is kind:
        return options
    if isinstance(options, EncoderConfig):
        options = changed_options(options)
    return with_fields(kind(), options or {}, "encoder.")


def changed_options(config: EncoderConfig) -> dict[str, Any]:
    """The options that are not at their defaults."""
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}
