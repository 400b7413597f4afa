"""A valid call of every function of the extension, on arrays of its own: what tests of memory and
threads change one argument of, or make from many threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pdrec_fast.build_info import extension

WIDTH, ITEMS = 16, 150
WORD = 2**32


class Call(NamedTuple):
    """Arguments by name, in order, but for the number of threads.

    Attributes:
        writes: names of what the function writes, ``"products.2"`` in a tuple or a list.
        ranges: integers that say where memory is: name -> the least and the largest allowed.
        rising: names of arrays whose numbers must rise.
        any: names of arrays of integers that may hold any.
    """

    arguments: dict[str, Any]
    writes: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]] = MappingProxyType({})
    rising: tuple[str, ...] = ()
    any: tuple[str, ...] = ()

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, those within tuples and lists by their place."""
        return dict(_arrays(self.arguments))

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> Call:
        """With these in the place of those of their names."""
        changed = {}
        for name, value in self.arguments.items():
            if isinstance(value, tuple | list):
                parts = [arrays.get(f"{name}.{i}", part) for i, part in enumerate(value)]
                changed[name] = type(value)(parts)
            else:
                changed[name] = arrays.get(name, value)
        return self._replace(arguments=changed)

    def run(self, function: str, n_threads: int = 1) -> Any:
        threads = {} if function == "group_by_item" else {"n_threads": n_threads}
        return getattr(extension, function)(**self.arguments, **threads)


def _arrays(arguments: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, tuple | list):
            parts = {f"{name}.{i}": part for i, part in enumerate(value)}
            yield from _arrays(parts)


def _normal(*shape: int) -> np.ndarray:
    size = int(np.prod(shape))
    return np.sin(np.arange(1, size + 1, dtype=np.float32) * 1.7).reshape(shape)


def _zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def _users(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64) * 3


def _rows(n: int, each: int = 4) -> dict[str, np.ndarray]:
    """``each`` ascending items for every row."""
    items = (np.arange(n)[:, None] * 7 + np.arange(each) * 11) % (ITEMS // 2)
    return {
        "indptr": np.arange(n + 1, dtype=np.int64) * each,
        "items": np.sort(items, axis=1).astype(np.int32).ravel(),
    }


def _random_words(n: int) -> Call:
    arguments = {"seed": 1, "epoch": 2, "users": _users(n), "stream": 3}
    out = {"out": _zeros(n, 70, dtype=np.uint32)}
    return Call(arguments | out, ("out",), {"users": (0, WORD - 1)})


def _scored(n: int) -> dict[str, np.ndarray]:
    rows = _rows(n)
    return {"scores": _normal(n, ITEMS), "indptr": rows["indptr"], "observed": rows["items"]}


def _select_unobserved(n: int) -> Call:
    arguments = _scored(n) | {
        "first_rank": np.full(n, 60, np.int64),
        "top_items": _zeros(n, 5, dtype=np.int32),
        "threshold_score": _zeros(n),
        "threshold_item": _zeros(n, dtype=np.int32),
        "nan_column": _zeros(n, dtype=np.int32),
    }
    ranges = {"observed": (0, ITEMS - 1), "first_rank": (0, ITEMS - 5)}
    writes = "top_items", "threshold_score", "threshold_item", "nan_column"
    return Call(arguments, writes, ranges, ("indptr",))


def _sample_pool(n: int) -> Call:
    arguments = _scored(n) | {
        "threshold_score": np.full(n, 0.5, np.float32),
        "threshold_item": np.full(n, 3, np.int32),
        "replace": False,
        "seed": 1,
        "epoch": 2,
        "users": _users(n),
        "draws": _zeros(n, 9, dtype=np.int32),
        "pool_size": _zeros(n, dtype=np.int64),
    }
    ranges = {"observed": (0, ITEMS - 1), "users": (0, WORD - 1)}
    return Call(arguments, ("draws", "pool_size"), ranges, ("indptr",), ("threshold_item",))


def _counts(*shape: int) -> dict[str, np.ndarray]:
    return {name: _zeros(*shape, dtype=np.int64) for name in ("greater", "equal", "nans")}


def _count_above(n: int) -> Call:
    arguments = {"scores": _normal(n, ITEMS), "bounds": _normal(n)} | _counts(n)
    return Call(arguments, ("greater", "equal", "nans"))


def _count_above_sums(n: int) -> Call:
    matrices = {"logits": _normal(n, ITEMS), "scores": _normal(n, ITEMS)}
    arguments = matrices | {"weights": _normal(3), "bounds": _normal(2, n)} | _counts(n, 3)
    return Call(arguments, ("greater", "equal", "nans"))


def _noisy_input(n: int, dtype: Any = np.float32) -> Call:
    rows = _rows(n)
    arguments = rows | {
        "values": np.ones(len(rows["items"]), np.float32),
        "signal": np.ones(n, np.float32),
        "sigma": np.ones(n, np.float32),
        "dropout": True,
        "keep_from": 2**31,
        "keep_scale": 2.0,
        "seed": 1,
        "epoch": 2,
        "users": _users(n),
        "first_block": 0,
        "out": _zeros(n, ITEMS, dtype=dtype),
    }
    ranges = {"items": (0, ITEMS - 1), "users": (0, WORD - 1)}
    return Call(arguments, ("out",), ranges, ("indptr",))


def _sparse_product(n: int) -> Call:
    rows, matrix = _rows(n), _rows(ITEMS, 3)
    arguments = rows | {
        "values": np.ones(len(rows["items"]), np.float32),
        "matrix_indptr": matrix["indptr"],
        "matrix_columns": matrix["items"],
        "matrix_values": np.ones(3 * ITEMS, np.float32),
        "out": _zeros(n, ITEMS),
        "bad": _zeros(n, dtype=np.uint8),
    }
    # Columns out of range are told of in ``bad``.
    ranges, rising = {"items": (0, ITEMS - 1)}, ("indptr", "matrix_indptr")
    return Call(arguments, ("out", "bad"), ranges, rising, ("matrix_columns",))


def _sequences(n: int) -> tuple[int, tuple[Any, ...]]:
    """The number of tokens of n sequences of 0, 3, 6, .. tokens, and ``words``."""
    indptr = np.concatenate([[0], np.cumsum(np.arange(n) * 3)]).astype(np.int64)
    return int(indptr[-1]), (indptr, _users(n), 2**30, 4 / 3, 1, 2, 3)


_WORDS = {"words.1": (0, WORD - 1)}


def _packed_dropout(n: int) -> Call:
    tokens, words = _sequences(n)
    arguments = {"x": _normal(tokens, WIDTH), "words": words, "out": _zeros(tokens, WIDTH)}
    return Call(arguments, ("out",), _WORDS, ("words.0",))


def _attention_pooling(n: int) -> Call:
    tokens, words = _sequences(n)
    arguments = {
        "x": _normal(tokens, WIDTH),
        "indptr": words[0],
        "queries": _normal(n, 2, WIDTH),
        "out": _zeros(n, 2, WIDTH),
    }
    return Call(arguments, ("out",), {}, ("indptr",))


def _packed_attention(n: int) -> Call:
    tokens, words = _sequences(n)
    inputs = {name: _normal(tokens, 2, 8) for name in "qkv"}
    out = {"out": _zeros(tokens, 2, 8), "softmax": _zeros(2, tokens, 2)}
    return Call(inputs | {"words": words} | out, ("out", "softmax"), _WORDS, ("words.0",))


def _packed_attention_backward(n: int) -> Call:
    tokens, words = _sequences(n)
    inputs = {name: _normal(tokens, 2, 8) for name in ("grad_out", "q", "k", "v")}
    gradients = {name: _zeros(tokens, 2, 8) for name in ("grad_q", "grad_k", "grad_v")}
    arguments = inputs | {"words": words, "softmax": np.ones((2, tokens, 2), np.float32)}
    return Call(arguments | gradients, tuple(gradients), _WORDS, ("words.0",))


def _biases(tokens: int) -> tuple[np.ndarray, ...]:
    times = np.arange(tokens, dtype=np.float64) ** 2
    return _normal(5), _normal(9), times, np.arange(9, dtype=np.float64) * 3


def _biased_attention(n: int) -> Call:
    call = _packed_attention(n)
    inputs, tokens = dict(call.arguments), len(call.arguments["q"])
    outputs = {name: inputs.pop(name) for name in ("out", "softmax")}
    biases = {"biases": _biases(tokens), "pointwise": False}
    return call._replace(arguments=inputs | biases | outputs)


def _biased_attention_backward(n: int) -> Call:
    call = _packed_attention_backward(n)
    inputs, tokens = dict(call.arguments), len(call.arguments["q"])
    outputs = {name: inputs.pop(name) for name in ("softmax", *call.writes)}
    biases = {"biases": _biases(tokens), "pointwise": False}
    sums = {"grad_distance": _zeros(5), "grad_time": _zeros(9)}
    return call._replace(arguments=inputs | biases | outputs | sums, writes=(*call.writes, *sums))


def _block(n: int) -> dict[str, Any]:
    tokens, words = _sequences(n)
    d = WIDTH
    shapes = (d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (d, d), (d,), (d, d), (d,)
    parameters = [_normal(*shape) for shape in shapes]
    x = _normal(tokens, d)
    return {"x": x, "parameters": parameters, "words": words, "n_heads": 2, "eps": 1e-6}


def _kept(n: int) -> dict[str, np.ndarray]:
    tokens, _ = _sequences(n)
    return {
        "states": np.ones(8 * tokens * WIDTH, np.float32),
        "statistics": np.ones(8 * tokens, np.float32),
        "kept": _zeros(tokens, WIDTH, dtype=np.uint8),
    }


def _sasrec_block(n: int) -> Call:
    block = _block(n)
    arguments = block | {"out": np.zeros_like(block["x"])} | _kept(n)
    return Call(arguments, ("out", "states", "statistics", "kept"), _WORDS, ("words.0",))


def _sasrec_block_backward(n: int) -> Call:
    forward = _sasrec_block(n)
    forward.run("sasrec_block")
    block, x = _block(n), forward.arguments["x"]
    kept = {name: forward.arguments[name] for name in _kept(n)}
    gradients = {"grad_x": np.zeros_like(x), "gradients": _zeros((6 * WIDTH + 10) * WIDTH)}
    arguments = {"grad_out": np.ones_like(x)} | block | kept | gradients
    return Call(arguments, tuple(gradients), _WORDS, ("words.0",))


def _candidates(n: int, each: int = 5) -> dict[str, np.ndarray]:
    items = (np.arange(n * each, dtype=np.int32) * 7 % ITEMS).reshape(n, each)
    items[:, 3:4] = -1
    return {"states": _normal(n, WIDTH), "table": _normal(ITEMS, WIDTH), "items": items}


_ITEMS = {"items": (-1, ITEMS - 1)}
_SIMILARITY = {"cosine": True, "temperature": 5.0}
_LOSS = "grad_dot", "grad_item", "grad_state"


def _derivatives(n: int, each: int = 5) -> dict[str, np.ndarray]:
    return dict(zip(_LOSS, (_zeros(n, each), _zeros(n, each), _zeros(n)), strict=True))


def _item_logits(n: int) -> Call:
    settings = {**_SIMILARITY, "bias": _normal(ITEMS), "logits": _zeros(n, 5)}
    return Call(_candidates(n) | settings, ("logits",), _ITEMS)


def _weighted_bce(n: int) -> Call:
    settings = {"weights": np.ones((n, 5), np.float32), "n_positives": 2, **_SIMILARITY}
    return Call(_candidates(n) | settings | _derivatives(n), _LOSS, _ITEMS)


def _sampled_softmax(n: int) -> Call:
    settings = {"weights": np.ones(n, np.float32), **_SIMILARITY}
    return Call(_candidates(n) | settings | _derivatives(n), _LOSS, _ITEMS)


def _negatives(n: int) -> dict[str, np.ndarray]:
    numbers = {"negatives": np.arange(20, dtype=np.int32) * 3, "offsets": _normal(20)}
    return numbers | {"weights": np.ones(n, np.float32)}


_NEGATIVES = _ITEMS | {"negatives": (0, ITEMS - 1)}


def _shared_softmax(n: int) -> Call:
    of_block = {"block": _normal(n, 20), "factors": _zeros(n)}
    arguments = _candidates(n) | _negatives(n) | _SIMILARITY | of_block | _derivatives(n)
    return Call(arguments, ("block", "factors", *_LOSS), _NEGATIVES)


def _products(n: int, n_items: int) -> dict[str, Any]:
    states, items = _normal(n, WIDTH), _normal(n_items, WIDTH)
    return {"products": (states, items, np.zeros_like(states), np.zeros_like(items))}


_OF_PRODUCTS = "products.2", "products.3", "factors"


def _shared_softmax_products(n: int) -> Call:
    of_block = _products(n, 20) | {"factors": _zeros(n)}
    arguments = _candidates(n) | _negatives(n) | _SIMILARITY | of_block | _derivatives(n)
    return Call(arguments, (*_OF_PRODUCTS, *_LOSS), _NEGATIVES)


def _corpus_rows(n: int) -> dict[str, Any]:
    positives = np.arange(n, dtype=np.int32) * 7 % ITEMS
    totals = np.tile([1.0, 2.0, 0.5, 0.1], (n, 1))
    weights = np.ones(n, np.float32)
    return {"of_rows": (np.full(n, 8, np.float32), positives, weights, totals), **_SIMILARITY}


def _corpus_softmax(n: int) -> Call:
    block = {"block": _normal(n, ITEMS), "first_item": 0}
    last = {"is_first": True, "is_last": True, "factors": _zeros(n), "grad_state": _zeros(n)}
    writes = "block", "of_rows.3", "factors", "grad_state"
    # A block does not know how many items there are.
    return Call(block | _corpus_rows(n) | last, writes, {"of_rows.1": (-1, 2**31 - 1)})


def _corpus_softmax_products(n: int) -> Call:
    outputs = {"factors": _zeros(n), "grad_state": _zeros(n)}
    arguments = _products(n, ITEMS) | _corpus_rows(n) | outputs
    writes = *_OF_PRODUCTS, "of_rows.3", "grad_state"
    return Call(arguments, writes, {"of_rows.1": (-1, ITEMS - 1)})


def _corpus_derivatives(n: int) -> Call:
    block = {"block": _normal(n, ITEMS), "first_item": 0}
    ranges = {"of_rows.1": (-1, 2**31 - 1)}
    return Call(block | _corpus_rows(n), ("block", "of_rows.3"), ranges)


def _states_gradient(n: int) -> Call:
    by_logits = {"grad_loss": 1.0, "grad_dot": _normal(n, 5), "grad_state": _normal(n)}
    arguments = _candidates(n) | by_logits | {"out": _zeros(n, WIDTH)}
    return Call(arguments, ("out",), _ITEMS)


def _group_by_item(n: int) -> Call:
    return Call({"items": _candidates(n)["items"]}, (), {}, (), ("items",))


def _table_gradient(n: int) -> Call:
    candidates = _candidates(n)
    groups = extension.group_by_item(candidates["items"])
    arguments = candidates | dict(
        zip(("group_items", "group_starts", "order"), groups, strict=True)
    )
    by_logits = {"grad_loss": 1.0, "grad_dot": _normal(n, 5), "grad_item": _normal(n, 5)}
    arguments |= by_logits | {"compact": False, "out": _zeros(ITEMS, WIDTH)}
    ranges = _ITEMS | {"group_items": (0, ITEMS - 1), "order": (0, 5 * n - 1)}
    return Call(arguments, ("out",), ranges, ("group_starts",))


def _gradient_rows(n: int) -> dict[str, np.ndarray]:
    return {"rows": np.arange(n, dtype=np.int32) % 40, "gradients": _normal(n, WIDTH)}


def _sum_rows(n: int) -> Call:
    stale = {"stale": np.arange(30, dtype=np.int32)}
    arguments = stale | _gradient_rows(n) | {"out": _zeros(ITEMS, WIDTH)}
    return Call(arguments, ("out",), dict.fromkeys(("stale", "rows"), (0, ITEMS - 1)))


def _adam_rows(n: int) -> Call:
    state = {name: _zeros(ITEMS, WIDTH) for name in ("table", "exp_avg", "exp_avg_sq")}
    arguments = state | _gradient_rows(n) | {"factors": (1.0, 0.1, 0.99, 0.01, 10.0, 1e-8, 0.01)}
    return Call(arguments, tuple(state), {"rows": (0, ITEMS - 1)})


CALLS: dict[str, Callable[[int], Call]] = {
    function.__name__[1:]: function
    for function in (
        *(_random_words, _select_unobserved, _sample_pool, _count_above, _count_above_sums),
        *(_noisy_input, _sparse_product, _packed_dropout, _attention_pooling),
        *(_packed_attention, _packed_attention_backward, _sasrec_block, _sasrec_block_backward),
        *(_biased_attention, _biased_attention_backward),
        *(_item_logits, _weighted_bce, _sampled_softmax, _shared_softmax),
        *(_shared_softmax_products, _corpus_softmax, _corpus_softmax_products),
        *(_corpus_derivatives, _states_gradient, _group_by_item, _table_gradient),
        *(_sum_rows, _adam_rows),
    )
}
"""By the name of the extension's function; takes the number of rows or sequences."""
