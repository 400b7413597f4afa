"""Operations of the family ``packed`` on random inputs."""

from __future__ import annotations

from typing import Any

import torch

from bench.accuracy.sample import CPP, Draw, Outputs, Sample, case, waves, with_gradients
from pdrec_fast.encoders.times import bucket_begins
from pdrec_fast.operands import AttentionBiases, SasrecBlock
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.attention_pooling import attention_pooling
from pdrec_fast.ops.packed.biased_attention import biased_attention
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.ops.packed.packed_gru import packed_gru
from pdrec_fast.ops.packed.sasrec_block import sasrec_block


def _sequences(draw: Draw, width: int) -> tuple[torch.Tensor, DropoutKey, dict[str, Any]]:
    """(indptr, key, sizes)"""
    lengths = draw.lengths(draw.size(20), draw.size(120))
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    users = draw.integers(0, 2**32, len(lengths))
    sizes = {"sequences": len(lengths), "tokens": int(indptr[-1]), "width": width}
    return indptr, DropoutKey(5, 2, users), sizes


@case
def _attention_pooling(draw: Draw) -> Sample:
    indptr, _, sizes = _sequences(draw, draw.size(130))
    x = draw.normal(sizes["tokens"], sizes["width"], scale=draw.scale())
    queries = draw.normal(sizes["sequences"], draw.size(4), sizes["width"])
    queries = queries / sizes["width"] ** 0.5

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return {"value": attention_pooling(x.to(dtype), indptr, queries.to(dtype), impl=impl)}

    return Sample(sizes, CPP, run)


@case
def _packed_attention(draw: Draw) -> Sample:
    indptr, key, sizes = _sequences(draw, draw.size(70))
    shape = sizes["tokens"], draw.size(3), sizes["width"]
    inputs = {name: draw.normal(*shape) for name in "qkv"}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(**inputs: torch.Tensor) -> torch.Tensor:
            return packed_attention(**inputs, indptr=indptr, dropout=0.3, key=key, impl=impl)

        return with_gradients(of, inputs, dtype, waves)

    return Sample(sizes | {"heads": shape[1]}, CPP, run)


@case
def _biased_attention(draw: Draw) -> Sample:
    # Of one or two numbers the gradients of a softmax may be all but 0.
    indptr, key, sizes = _sequences(draw, draw.size(70, 4))
    shape = sizes["tokens"], draw.size(3), sizes["width"]
    inputs = {name: draw.normal(*shape) for name in "qkv"}
    inputs |= {"distance": draw.normal(draw.size(150, 5)), "time": draw.normal(40)}
    # A softmax does not see what all of its scores have in common, as they would the bias of few
    # distances or of one time.
    times = torch.cumsum(2 + 1e5 * draw.uniform(shape[0]).double() ** 4, dim=0)
    pointwise = bool(draw.integers(0, 2, 1))
    settings = {"pointwise": pointwise, "dropout": 0.0 if pointwise else 0.3, "key": key}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(distance: torch.Tensor, time: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
            biases = AttentionBiases(distance, time, times, bucket_begins(40))
            return biased_attention(**inputs, indptr=indptr, biases=biases, impl=impl, **settings)

        return with_gradients(of, inputs, dtype, waves)

    return Sample(sizes | {"heads": shape[1], "pointwise": pointwise}, CPP, run)


@case
def _packed_dropout(draw: Draw) -> Sample:
    indptr, key, sizes = _sequences(draw, draw.size(130))
    x = {"x": draw.normal(sizes["tokens"], sizes["width"])}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(x: torch.Tensor) -> torch.Tensor:
            return packed_dropout(x, indptr, 0.3, key=key, stream=1, impl=impl)

        return with_gradients(of, x, dtype, waves)

    return Sample(sizes, CPP, run)


@case
def _packed_gru(draw: Draw) -> Sample:
    width, hidden = draw.size(70), draw.size(70)
    lengths = draw.lengths(draw.size(20), draw.size(60)) + 1
    sizes = (lengths[None] > torch.arange(int(lengths.max()))[:, None]).sum(1)
    shapes = {"in_weight": (3 * hidden, width), "weight": (3 * hidden, hidden)}
    shapes |= dict.fromkeys(("in_bias", "bias"), (3 * hidden,))
    inputs = {"x": draw.normal(int(sizes.sum()), width)}
    inputs |= {name: draw.normal(*s, scale=hidden**-0.5) for name, s in shapes.items()}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(**inputs: torch.Tensor) -> torch.Tensor:
            return packed_gru(sizes=sizes, **inputs, impl=impl)

        return with_gradients(of, inputs, dtype, waves)

    shape = {"tokens": int(sizes.sum()), "width": width, "hidden": hidden}
    return Sample(shape, ("steps", "reference"), run)


@case
def _sasrec_block(draw: Draw) -> Sample:
    heads = draw.size(3)
    # The norm of two numbers is their order: its gradient is 0, but for eps.
    indptr, key, sizes = _sequences(draw, heads * draw.size(30, 4))
    d = sizes["width"]
    shapes = dict.fromkeys(SasrecBlock._fields, (d,))
    shapes |= {name: (d, d) for name in shapes if name.endswith("weight")}
    shapes |= {"in_weight": (3 * d, d), "in_bias": (3 * d,)}
    inputs = {"x": draw.normal(sizes["tokens"], d)}
    inputs |= {name: draw.normal(*shapes[name], scale=d**-0.5) for name in SasrecBlock._fields}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
            block = SasrecBlock(**parameters)
            settings = {"heads": heads, "dropout": 0.3, "key": key, "impl": impl}
            return sasrec_block(x, indptr, block, **settings)

        return with_gradients(of, inputs, dtype, waves)

    return Sample(sizes | {"heads": heads}, CPP, run)
