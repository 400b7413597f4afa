"""Sequence encoders behind one small protocol."""

from pdrec_fast.encoders.base import ContrastiveEncoder, SequenceEncoder
from pdrec_fast.encoders.cl4srec import CL4SRec, CL4SRecConfig
from pdrec_fast.encoders.gru4rec import GRU4Rec, GRU4RecConfig
from pdrec_fast.encoders.padded import PaddedEncoder
from pdrec_fast.encoders.registry import (
    ENCODER_CONFIGS,
    ENCODERS,
    EncoderConfig,
    EncoderOptions,
    encoder_config,
)
from pdrec_fast.encoders.sasrec import SASRec, SASRecConfig

__all__ = [
    "ENCODERS",
    "ENCODER_CONFIGS",
    "CL4SRec",
    "CL4SRecConfig",
    "ContrastiveEncoder",
    "EncoderConfig",
    "EncoderOptions",
    "GRU4Rec",
    "GRU4RecConfig",
    "PaddedEncoder",
    "SASRec",
    "SASRecConfig",
    "SequenceEncoder",
    "encoder_config",
]
