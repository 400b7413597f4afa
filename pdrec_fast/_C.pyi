# ruff: noqa: N999
from typing import TypedDict

import numpy as np
import numpy.typing as npt

_F32 = npt.NDArray[np.float32]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_Words = tuple[_I64, _I64, int, float, int, int, int]
"""Of packed sequences: indptr, users, keep_from, keep_scale, seed, epoch, stream."""

_F64 = npt.NDArray[np.float64]
_Biases = tuple[_F32 | None, _F32 | None, _F64 | None, _F64 | None]
"""Of attention: distance, time, times, begins."""

_Products = tuple[_F32, _F32, _F32 | None, _F32 | None]
_CorpusRows = tuple[_F32, _I32, _F32, npt.NDArray[np.float64]]
"""Of a corpus softmax: squares, positives, weights, totals."""

class _BuildInfo(TypedDict):
    compiler: str
    build_type: str
    isas_built: list[str]
    isas_runnable: list[str]
    isa: str

random_streams: dict[str, int]

def build_info() -> _BuildInfo: ...
def set_isa(name: str) -> None: ...
def use_team(address: int) -> None: ...
def random_words(
    seed: int,
    epoch: int,
    users: _I64,
    stream: int,
    out: npt.NDArray[np.uint32],
    n_threads: int,
) -> None: ...
def select_unobserved(
    scores: _F32,
    indptr: _I64,
    observed: _I32,
    first_rank: _I64,
    top_items: _I32,
    threshold_score: _F32,
    threshold_item: _I32,
    nan_column: _I32,
    n_threads: int,
) -> None: ...
def count_above(
    scores: _F32,
    bounds: _F32,
    greater: _I64,
    equal: _I64,
    nans: _I64,
    n_threads: int,
) -> None: ...
def count_above_sums(
    logits: _F32,
    scores: _F32,
    weights: _F32,
    bounds: _F32,
    greater: _I64,
    equal: _I64,
    nans: _I64,
    n_threads: int,
) -> None: ...
def sample_pool(
    scores: _F32,
    indptr: _I64,
    observed: _I32,
    threshold_score: _F32,
    threshold_item: _I32,
    replace: bool,
    seed: int,
    epoch: int,
    users: _I64,
    draws: _I32,
    pool_size: _I64,
    n_threads: int,
) -> None: ...
def noisy_input(
    indptr: _I64,
    items: _I32,
    values: _F32,
    signal: _F32,
    sigma: _F32,
    dropout: bool,
    keep_from: int,
    keep_scale: float,
    seed: int,
    epoch: int,
    users: _I64,
    first_block: int,
    out: _F32 | npt.NDArray[np.uint16],
    n_threads: int,
) -> None: ...
def sparse_product(
    indptr: _I64,
    items: _I32,
    values: _F32,
    matrix_indptr: _I64,
    matrix_columns: _I32,
    matrix_values: _F32,
    out: _F32,
    bad: npt.NDArray[np.uint8],
    n_threads: int,
) -> None: ...
def packed_dropout(
    x: _F32,
    words: _Words,
    out: _F32,
    n_threads: int,
) -> None: ...
def attention_pooling(x: _F32, indptr: _I64, queries: _F32, out: _F32, n_threads: int) -> None: ...
def packed_attention(
    q: _F32,
    k: _F32,
    v: _F32,
    words: _Words,
    out: _F32,
    softmax: _F32,
    n_threads: int,
) -> None: ...
def packed_attention_backward(
    grad_out: _F32,
    q: _F32,
    k: _F32,
    v: _F32,
    words: _Words,
    softmax: _F32,
    grad_q: _F32,
    grad_k: _F32,
    grad_v: _F32,
    n_threads: int,
) -> None: ...
def biased_attention(
    q: _F32,
    k: _F32,
    v: _F32,
    words: _Words,
    biases: _Biases,
    pointwise: bool,
    out: _F32,
    softmax: _F32,
    n_threads: int,
) -> None: ...
def biased_attention_backward(
    grad_out: _F32,
    q: _F32,
    k: _F32,
    v: _F32,
    words: _Words,
    biases: _Biases,
    pointwise: bool,
    softmax: _F32,
    grad_q: _F32,
    grad_k: _F32,
    grad_v: _F32,
    grad_distance: _F32,
    grad_time: _F32,
    n_threads: int,
) -> None: ...
def sasrec_block(
    x: _F32,
    parameters: list[_F32],
    words: _Words,
    n_heads: int,
    eps: float,
    out: _F32,
    states: _F32,
    statistics: _F32,
    kept: npt.NDArray[np.uint8],
    n_threads: int,
) -> None: ...
def sasrec_block_backward(
    grad_out: _F32,
    x: _F32,
    parameters: list[_F32],
    words: _Words,
    n_heads: int,
    eps: float,
    states: _F32,
    statistics: _F32,
    kept: npt.NDArray[np.uint8],
    grad_x: _F32,
    gradients: _F32,
    n_threads: int,
) -> None: ...
def item_logits(
    states: _F32,
    table: _F32,
    items: _I32,
    cosine: bool,
    temperature: float,
    bias: _F32 | None,
    logits: _F32,
    n_threads: int,
) -> None: ...
def weighted_bce(
    states: _F32,
    table: _F32,
    items: _I32,
    weights: _F32,
    n_positives: int,
    cosine: bool,
    temperature: float,
    grad_dot: _F32,
    grad_item: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def sampled_softmax(
    states: _F32,
    table: _F32,
    items: _I32,
    weights: _F32,
    cosine: bool,
    temperature: float,
    grad_dot: _F32,
    grad_item: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def shared_softmax(
    states: _F32,
    table: _F32,
    items: _I32,
    negatives: _I32,
    offsets: _F32,
    weights: _F32,
    cosine: bool,
    temperature: float,
    block: _F32 | npt.NDArray[np.uint16],
    factors: _F32,
    grad_dot: _F32,
    grad_item: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def shared_softmax_products(
    states: _F32,
    table: _F32,
    items: _I32,
    negatives: _I32,
    offsets: _F32,
    weights: _F32,
    cosine: bool,
    temperature: float,
    products: _Products,
    factors: _F32,
    grad_dot: _F32,
    grad_item: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def corpus_softmax_products(
    products: _Products,
    of_rows: _CorpusRows,
    cosine: bool,
    temperature: float,
    factors: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def corpus_softmax(
    block: _F32 | npt.NDArray[np.uint16],
    first_item: int,
    of_rows: _CorpusRows,
    cosine: bool,
    temperature: float,
    is_first: bool,
    is_last: bool,
    factors: _F32,
    grad_state: _F32,
    n_threads: int,
) -> float: ...
def corpus_derivatives(
    block: _F32 | npt.NDArray[np.uint16],
    first_item: int,
    of_rows: _CorpusRows,
    cosine: bool,
    temperature: float,
    n_threads: int,
) -> None: ...
def states_gradient(
    states: _F32,
    table: _F32,
    items: _I32,
    grad_loss: float,
    grad_dot: _F32,
    grad_state: _F32,
    out: _F32,
    n_threads: int,
) -> None: ...
def group_by_item(items: _I32) -> tuple[_I32, _I64, _I32]: ...
def table_gradient(
    states: _F32,
    table: _F32,
    items: _I32,
    group_items: _I32,
    group_starts: _I64,
    order: _I32,
    grad_loss: float,
    grad_dot: _F32,
    grad_item: _F32,
    compact: bool,
    out: _F32,
    n_threads: int,
) -> None: ...
def sum_rows(stale: _I32, rows: _I32, gradients: _F32, out: _F32, n_threads: int) -> _I32: ...
def adam_rows(
    table: _F32,
    exp_avg: _F32,
    exp_avg_sq: _F32,
    rows: _I32 | None,
    gradients: _F32,
    factors: tuple[float, float, float, float, float, float, float],
    n_threads: int,
) -> None: ...
