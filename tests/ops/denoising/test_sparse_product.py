"""Products of two sparse matrices, made dense."""

import numpy as np
import pytest
import torch

from pdrec_fast.ops.denoising.sparse_product import sparse_product

MATRIX = (
    np.array([0, 2, 2, 3]),
    np.array([0, 3, 1], dtype=np.int32),
    np.array([2.0, -1.0, 4.0], dtype=np.float32),
)


def test_by_hand(impl):
    indptr, items = np.array([0, 2, 2, 4]), np.array([0, 2, 0, 0], dtype=np.int32)
    values = np.array([1.0, 0.5, 1.0, 2.0], dtype=np.float32)
    product = sparse_product(indptr, items, values, MATRIX, 4, impl=impl)
    assert product.tolist() == [[2, 2, 0, -1], [0] * 4, [6, 0, 0, -3]]


def test_equals_the_dense_product(impl):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 40)) * (rng.random((90, 40)) < 0.2)
    matrix = rng.normal(size=(40, 300)) * (rng.random((40, 300)) < 0.1)
    rows, items = np.nonzero(x)
    places, columns = np.nonzero(matrix)
    indptr, matrix_indptr = (
        np.searchsorted(of, np.arange(n + 1)) for of, n in ((rows, 90), (places, 40))
    )
    product = sparse_product(
        indptr,
        items.astype(np.int32),
        x[rows, items].astype(np.float32),
        (matrix_indptr, columns.astype(np.int32), matrix[places, columns].astype(np.float32)),
        300,
        impl=impl,
    )
    assert product.dtype == torch.float32
    np.testing.assert_allclose(product.numpy(), x @ matrix, rtol=1e-5, atol=1e-5)


def test_nothing(impl):
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    assert sparse_product(np.zeros(1, np.int64), *nothing, MATRIX, 4, impl=impl).shape == (0, 4)
    empty = np.zeros(4, np.int64), *nothing
    given = np.array([0, 1]), np.array([2], dtype=np.int32), np.ones(1, dtype=np.float32)
    assert sparse_product(*given, empty, 2, impl=impl).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": np.array([3], dtype=np.int32)}, "items must lie in 0 .. 2"),
        ({"values": np.ones(2, dtype=np.float32)}, "values"),
        ({"indptr": np.array([0, 2])}, "indptr"),
        ({"n_columns": 3}, "columns must lie in 0 .. 2"),
        ({"matrix": (np.array([0, 2, 1, 3]), *MATRIX[1:])}, "must rise"),
        ({"matrix": (MATRIX[0], -MATRIX[1], MATRIX[2])}, "columns must lie in"),
        ({"matrix": (*MATRIX[:2], MATRIX[2][:2])}, "values"),
    ],
)
def test_refuses_what_does_not_fit(impl, change, message):
    given = {
        "indptr": np.array([0, 1]),
        "items": np.array([0], dtype=np.int32),
        "values": np.ones(1, dtype=np.float32),
        "matrix": MATRIX,
        "n_columns": 4,
    }
    with pytest.raises(ValueError, match=message):
        sparse_product(**(given | change), impl=impl)
