"""Sequence encoders behind one small protocol."""

from collections.abc import Callable

from torch import nn

from pdrec_fast.encoders.base import SequenceEncoder
from pdrec_fast.encoders.padded import PaddedEncoder
from pdrec_fast.encoders.sasrec import SASRec

ENCODERS: dict[str, Callable[..., nn.Module]] = {"sasrec": SASRec}

__all__ = ["ENCODERS", "PaddedEncoder", "SASRec", "SequenceEncoder"]
