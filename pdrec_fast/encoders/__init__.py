"""Sequence encoders behind one small protocol."""

from pdrec_fast.encoders.base import ContrastiveEncoder, PrefixEncoder, SequenceEncoder
from pdrec_fast.encoders.bert4rec import BERT4Rec, BERT4RecConfig
from pdrec_fast.encoders.caser import Caser, CaserConfig
from pdrec_fast.encoders.cl4srec import CL4SRec, CL4SRecConfig
from pdrec_fast.encoders.diffrec_star import DiffRecStar, DiffRecStarConfig
from pdrec_fast.encoders.diffurec import DiffuRec, DiffuRecConfig
from pdrec_fast.encoders.gru4rec import GRU4Rec, GRU4RecConfig
from pdrec_fast.encoders.hstu import HSTU, HSTUConfig
from pdrec_fast.encoders.ligr import LiGR, LiGRConfig
from pdrec_fast.encoders.mlp4rec import MLP4Rec, MLP4RecConfig
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
    "HSTU",
    "BERT4Rec",
    "BERT4RecConfig",
    "CL4SRec",
    "CL4SRecConfig",
    "Caser",
    "CaserConfig",
    "ContrastiveEncoder",
    "DiffRecStar",
    "DiffRecStarConfig",
    "DiffuRec",
    "DiffuRecConfig",
    "EncoderConfig",
    "EncoderOptions",
    "GRU4Rec",
    "GRU4RecConfig",
    "HSTUConfig",
    "LiGR",
    "LiGRConfig",
    "MLP4Rec",
    "MLP4RecConfig",
    "PaddedEncoder",
    "PrefixEncoder",
    "SASRec",
    "SASRecConfig",
    "SequenceEncoder",
    "encoder_config",
]
