"""Sequence encoders behind one small protocol."""

from collections.abc import Callable

from torch import nn

from pdrec_fast.encoders.base import SequenceEncoder
from pdrec_fast.encoders.gru4rec import GRU4Rec
from pdrec_fast.encoders.sasrec import SASRec

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
}

__all__ = ["ENCODERS", "GRU4Rec", "SASRec", "SequenceEncoder"]
