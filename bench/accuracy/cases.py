"""Operations on random inputs: a function of the address of each, by name. Those of the family
``packed`` are in ``packed``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.accuracy.sample import CPP, Draw, Outputs, Sample, case, ones, waves, with_gradients
from pdrec_fast.operands import AdamRule, AdamState, DrawKey, ItemRows, Noise
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.shared_softmax import shared_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from pdrec_fast.ops.denoising.corpus_cross_entropy import corpus_cross_entropy
from pdrec_fast.ops.denoising.corpus_error import corpus_error
from pdrec_fast.ops.denoising.hidden_chain import hidden_chain
from pdrec_fast.ops.denoising.interval_weights import interval_weights
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection
from pdrec_fast.ops.denoising.normal_likelihood import normal_likelihood
from pdrec_fast.ops.denoising.sparse_product import sparse_product
from pdrec_fast.ops.denoising.tanh_error import tanh_error
from pdrec_fast.ops.fitting.adam_rows import adam_rows
from pdrec_fast.ops.fitting.sum_rows import sum_rows
from pdrec_fast.ops.selection.count_above import count_above
from pdrec_fast.ops.selection.count_above_sums import count_above_sums
from pdrec_fast.ops.selection.project import project
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.denoising.noisy_input import noisy_input as true_noisy_input


def _candidates(draw: Draw) -> tuple[dict[str, torch.Tensor], int, dict[str, Any], dict[str, Any]]:
    """(states and table, tokens, settings, sizes)"""
    tokens, n_items, scale = draw.size(300), draw.size(3_000, 2), draw.scale()
    # The cosine of vectors of width 1 is a sign: its gradient is 0, and what is found is rounding.
    width = draw.size(130, 2)
    vectors = {
        "states": draw.normal(tokens, width, scale=scale),
        "table": draw.normal(n_items, width),
    }
    cosine = bool(draw.integers(0, 2, 1))
    settings = {"similarity": "cosine" if cosine else "dot", "temperature": 5.0}
    sizes = {"tokens": tokens, "items": n_items, "width": width, "scale": scale} | settings
    return vectors, tokens, settings, sizes


def _items(draw: Draw, tokens: int, n_items: int, sizes: dict[str, Any]) -> torch.Tensor:
    """Some absent, but for the positives."""
    sizes["candidates"] = 1 + draw.size(40)
    items = draw.integers(-1, n_items, tokens, sizes["candidates"])
    items[:, 0] = draw.integers(0, n_items, tokens)
    return items


@case
def _item_logits(draw: Draw) -> Sample:
    vectors, tokens, settings, sizes = _candidates(draw)
    items = _items(draw, tokens, sizes["items"], sizes)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        given = {name: x.to(dtype) for name, x in vectors.items()}
        return {"value": item_logits(**given, items=items, **settings, impl=impl)}

    return Sample(sizes, CPP, run)


def _loss(
    loss: Callable[..., torch.Tensor], given: tuple[Any, ...], rest: tuple[Any, ...]
) -> Sample:
    vectors, _, settings, sizes = given

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return loss(states, table, *rest, **settings, impl=impl)

        return with_gradients(of, vectors, dtype, ones)

    return Sample(sizes, CPP, run)


@case
def _weighted_bce(draw: Draw) -> Sample:
    given = _candidates(draw)
    items = _items(draw, given[1], given[3]["items"], given[3])
    n_positives = draw.size(items.shape[1])
    return _loss(weighted_bce, given, (items, draw.uniform(*items.shape), n_positives))


@case
def _sampled_softmax(draw: Draw) -> Sample:
    given = _candidates(draw)
    items = _items(draw, given[1], given[3]["items"], given[3])
    return _loss(sampled_softmax, given, (items, draw.uniform(given[1])))


@case
def _shared_softmax(draw: Draw) -> Sample:
    given = _candidates(draw)
    _, tokens, _, sizes = given
    sizes["negatives"] = draw.size(600, 2)
    positives = draw.integers(0, sizes["items"], tokens, 1)
    negatives = draw.integers(0, sizes["items"], sizes["negatives"])
    rest = positives, negatives, draw.normal(len(negatives)), draw.uniform(tokens)
    return _loss(shared_softmax, given, rest)


@case
def _corpus_softmax(draw: Draw) -> Sample:
    given = _candidates(draw)
    _, tokens, _, sizes = given
    rest = draw.integers(0, sizes["items"], tokens), draw.uniform(tokens)
    return _loss(corpus_softmax, given, rest)


def _layer(draw: Draw) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...], dict[str, Any]]:
    """(hidden layer, items and bias; coordinates and values of a sparse target; sizes)"""
    n, n_items, hidden = draw.size(100), draw.size(3_000, 2), draw.size(200)
    layer = {
        "hidden": 2 * draw.uniform(n, hidden) - 1,
        "item_out": draw.normal(n_items, hidden, scale=(2 / (n_items + hidden)) ** 0.5),
        "item_bias": draw.normal(n_items, scale=0.1),
    }
    indptr, items = draw.rows(n, n_items)
    rows = torch.arange(n).repeat_interleave(indptr.diff())
    target = rows, items.long(), draw.uniform(len(items)) + 0.1
    return layer, target, {"rows": n, "items": n_items, "hidden": hidden}


def _of_corpus(function: Callable[..., torch.Tensor], draw: Draw, *impls: str) -> Sample:
    layer, target, sizes = _layer(draw)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(**layer: torch.Tensor) -> torch.Tensor:
            return function(*layer.values(), *target, impl=impl)

        return with_gradients(of, layer, dtype, waves)

    return Sample(sizes, (*impls, "reference"), run)


@case
def _corpus_error(draw: Draw) -> Sample:
    return _of_corpus(corpus_error, draw, "dense", "gram")


@case
def _corpus_cross_entropy(draw: Draw) -> Sample:
    return _of_corpus(corpus_cross_entropy, draw, "dense", "blocks")


@case
def _tanh_error(draw: Draw) -> Sample:
    return _of_corpus(tanh_error, draw, "blocks")


@case
def _normal_likelihood(draw: Draw) -> Sample:
    layer, _, sizes = _layer(draw)
    n_items = sizes["items"] // 2
    layer = {name: x[: 2 * n_items] if name != "hidden" else x for name, x in layer.items()}
    z = draw.normal(sizes["rows"], n_items)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(**layer: torch.Tensor) -> torch.Tensor:
            return normal_likelihood(*layer.values(), z.to(dtype), impl=impl)

        return with_gradients(of, layer, dtype, waves)

    return Sample(sizes | {"items": n_items}, ("blocks", "reference"), run)


@case
def _hidden_chain(draw: Draw) -> Sample:
    layer, (_, items, values), sizes = _layer(draw)
    n, hidden, steps = sizes["rows"], sizes["hidden"], draw.size(10)
    indptr = torch.from_numpy(np.linspace(0, len(items), n + 1).astype(np.int64))
    out, bias = layer["item_out"].double(), layer["item_bias"].double()
    item_in = draw.normal(*out.shape, scale=(2 / sum(out.shape)) ** 0.5)
    wide = item_in, out.T @ item_in.double(), bias @ item_in.double(), draw.normal(steps, hidden)
    signal = torch.linspace(0.9, 0.1, steps, dtype=torch.float64)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        chain = (x.float().to(dtype) for x in wide)
        given = indptr, items.int(), values, *chain, signal, 1 - signal
        return {"value": hidden_chain(*given, impl=impl)}

    return Sample(sizes | {"steps": steps}, ("torch", "reference"), run)


@case
def _interval_weights(draw: Draw) -> Sample:
    counts = draw.lengths(draw.size(100), draw.size(50)).numpy()
    indptr = np.cumsum([0, *counts])
    times = [np.sort(draw.numpy.integers(0, 10**9, n)).astype(float) for n in counts]
    joined = np.concatenate([*times, []])

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return {"value": torch.from_numpy(interval_weights(indptr, joined, 0.1, 1.0, impl=impl))}

    def truth() -> Outputs:
        weights = []
        for row in times:
            span = row[-1] - row[0] if len(row) else 0
            weights += [0.1 + (t - row[0]) / span * 0.9 if span else 1.0 for t in row]
        return {"value": torch.tensor(weights, dtype=torch.float64)}

    sizes = {"users": len(counts), "records": len(joined)}
    return Sample(sizes, ("numba", "reference"), run, truth)


def _noised(draw: Draw) -> tuple[ItemRows, Noise, dict[str, Any]]:
    n, n_items = draw.size(50), draw.size(3_000, 2)
    indptr, items = draw.rows(n, n_items)
    rows = ItemRows(indptr, items, draw.uniform(len(items)), n_items)
    dropout = float(draw.uniform(1)) * 0.9
    users = draw.integers(0, 2**32, n)
    noise = Noise(draw.uniform(n), draw.uniform(n), users, dropout, 7, 3)
    return rows, noise, {"rows": n, "items": n_items, "dropout": round(dropout, 3)}


@case
def _noisy_input(draw: Draw) -> Sample:
    rows, noise, sizes = _noised(draw)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        key = {"seed": noise.seed, "epoch": noise.epoch, "users": noise.users}
        arguments = *rows, noise.signal, noise.sigma, noise.dropout
        return {"value": noisy_input(*arguments, **key, impl=impl)}

    def truth() -> Outputs:
        out = torch.empty(len(noise.users), rows.n_items, dtype=torch.float64)
        return {"value": true_noisy_input(rows, noise, out)}

    return Sample(sizes, CPP, run, truth)


@case
def _noisy_projection(draw: Draw) -> Sample:
    rows, noise, sizes = _noised(draw)
    weight = {"weight": draw.normal(rows.n_items, draw.size(100), scale=0.1)}

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        def of(weight: torch.Tensor) -> torch.Tensor:
            key = {"seed": noise.seed, "epoch": noise.epoch, "users": noise.users}
            given = *rows[:3], weight, noise.signal, noise.sigma, noise.dropout
            return noisy_projection(*given, **key, impl=impl)

        return with_gradients(of, weight, dtype, waves)

    return Sample(sizes, ("materialized", "reference"), run)


@case
def _sparse_product(draw: Draw) -> Sample:
    n, n_items, n_columns = draw.size(50), draw.size(300, 2), draw.size(300, 2)
    shapes = (n, n_items), (n_items, n_columns)
    x, matrix = ((*rows, draw.normal(len(rows[1]))) for rows in (draw.rows(*s) for s in shapes))

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        left, right = ([part.numpy() for part in m] for m in (x, matrix))
        return {"value": sparse_product(*left, tuple(right), n_columns, impl=impl)}

    def truth() -> Outputs:
        left, right = (torch.zeros(s, dtype=torch.float64) for s in shapes)
        for dense, (indptr, items, values) in ((left, x), (right, matrix)):
            rows = torch.arange(len(dense)).repeat_interleave(indptr.diff())
            dense[rows, items.long()] = values.double()
        return {"value": left @ right}

    return Sample({"rows": n, "items": n_items, "columns": n_columns}, CPP, run, truth)


def _gradient_rows(draw: Draw) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    n, n_rows, width = draw.size(500), draw.size(300), draw.size(130)
    sizes = {"gradients": n, "rows": n_rows, "width": width}
    return draw.integers(0, n_rows, n), draw.normal(n, width, scale=draw.scale()), sizes


@case
def _sum_rows(draw: Draw) -> Sample:
    rows, gradients, sizes = _gradient_rows(draw)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        out = torch.zeros(sizes["rows"], sizes["width"], dtype=dtype)
        sum_rows(out, rows[:0], rows, gradients.to(dtype), impl=impl)
        return {"value": out}

    return Sample(sizes, CPP, run)


@case
def _adam_rows(draw: Draw) -> Sample:
    rows, gradients, sizes = _gradient_rows(draw)
    table = draw.normal(sizes["rows"], sizes["width"])
    first, second = draw.normal(*table.shape, scale=0.1), draw.uniform(*table.shape)
    rule, step = AdamRule(1e-2, 0.9, 0.999, 1e-8, 0.01), draw.size(1_000)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        state = AdamState(*(x.to(dtype).clone() for x in (table, first, second)))
        adam_rows(state, rows, gradients.to(dtype), step=step, rule=rule, impl=impl)
        return state._asdict()

    return Sample(sizes | {"step": step}, CPP, run)


def _scored(draw: Draw) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(scores, some of which are equal; observed; ranks within the unobserved)"""
    n, n_items = draw.size(30), draw.size(5_000, 4)
    scores = draw.normal(n, n_items)
    if bool(draw.integers(0, 2, 1)):
        scores = scores.round(decimals=1)
    observed = draw.rows(n, n_items)
    free = n_items - observed[0].diff()
    return scores, observed, (draw.uniform(n).double() * free).long()


def _as_arrays(observed: tuple[torch.Tensor, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return observed[0].numpy(), observed[1].numpy()


def _shape(scores: torch.Tensor) -> dict[str, Any]:
    return {"rows": len(scores), "items": scores.shape[1]}


@case
def _select_unobserved(draw: Draw) -> Sample:
    scores, observed, ranks = _scored(draw)
    top_m = draw.size(50)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return select_unobserved(scores, _as_arrays(observed), top_m, ranks, impl)._asdict()

    return Sample(_shape(scores) | {"top_m": top_m}, CPP, run)


@case
def _sample_pool(draw: Draw) -> Sample:
    scores, observed, ranks = _scored(draw)
    _, *threshold = select_unobserved(scores, _as_arrays(observed), 0, ranks, "reference")
    users = draw.integers(0, 2**32, len(scores))

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        given = scores, _as_arrays(observed), *threshold, 20
        return {"draws": sample_pool(*given, seed=3, users=users, impl=impl)}

    return Sample(_shape(scores), CPP, run)


@case
def _count_above(draw: Draw) -> Sample:
    scores, _, _ = _scored(draw)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return count_above(scores, scores[:, 0], impl=impl)._asdict()

    return Sample(_shape(scores), CPP, run)


@case
def _count_above_sums(draw: Draw) -> Sample:
    logits, _, _ = _scored(draw)
    scores, weights = draw.normal(*logits.shape), draw.uniform(draw.size(9))
    bounds = torch.stack((logits[:, 0], scores[:, 0]))

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return count_above_sums(logits, scores, weights, bounds, impl=impl)._asdict()

    return Sample(_shape(logits) | {"weights": len(weights)}, CPP, run)


@case
def _project(draw: Draw) -> Sample:
    layer, _, sizes = _layer(draw)

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        return {"value": project(*(x.to(dtype) for x in layer.values()), impl=impl)}

    return Sample(sizes, ("onednn", "torch"), run, lambda: run("torch", torch.float64))


@case
def _select_projected(draw: Draw) -> Sample:
    scores, observed, ranks = _scored(draw)
    # Of one hidden unit, so that the scores are the same however a product sums.
    bias = torch.zeros(scores.shape[1])
    projection = torch.ones(len(scores), 1), scores[0, :, None].contiguous(), bias
    key = DrawKey(3, 0, draw.integers(0, 2**32, len(scores)))

    def run(impl: str, dtype: torch.dtype) -> Outputs:
        given = *projection, _as_arrays(observed), 10, ranks, 8
        chosen = select_projected(*given, seed=key.seed, users=key.users, impl=impl)
        return {name: x for name, x in chosen._asdict().items() if isinstance(x, torch.Tensor)}

    return Sample(_shape(scores), ("materialized", "reference"), run)
