"""Sequence encoders behind one small protocol."""

from collections.abc import Callable

from torch import nn

from pdrec_fast.encoders.base import ContrastiveEncoder, SequenceEncoder
from pdrec_fast.encoders.cl4srec import CL4SRec
from pdrec_fast.encoders.gru4rec import GRU4Rec
from pdrec_fast.encoders.padded import PaddedEncoder
from pdrec_fast.encoders.sasrec import SASRec

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "cl4srec": CL4SRec,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
}

__all__ = [
    "ENCODERS",
    "CL4SRec",
    "ContrastiveEncoder",
    "GRU4Rec",
    "PaddedEncoder",
    "SASRec",
    "SequenceEncoder",
]
