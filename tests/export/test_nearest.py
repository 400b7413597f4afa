"""An index of items: exact products, filters, recall, and what is refused."""

import json

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.export import nearest

pytest.importorskip("faiss", reason="pip install 'pdrec_fast[faiss]'")
N, D = 700, 9
RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((N, D)).astype(np.float32)
QUERIES = RNG.standard_normal((5, D)).astype(np.float32)
FOUND = RNG.random(N) < 0.9
KINDS = ["flat", "hnsw", "ivfpq"]


@pytest.fixture(autouse=True)
def _long_allow_lists_are_searched(monkeypatch):
    monkeypatch.setattr(nearest, "_FLAT_UP_TO", 100)


@pytest.fixture(scope="module", params=KINDS)
def index(request):
    return pf.ItemIndex.build(MATRIX, rows=FOUND, kind=request.param, k=10, threads=1)


def exact(query, among, k):
    rows = np.flatnonzero(among)
    products = MATRIX[rows] @ query
    order = np.argsort(-products, kind="stable")[:k]
    return rows[order], products[order]


def check(index, query, found, scores, among, k=10):
    wanted, products = exact(query, among, k)
    there = found >= 0
    assert among[found[there]].all()
    np.testing.assert_allclose(scores[there], MATRIX[found[there]] @ query, rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    if index.kind == "flat":
        assert (found[there] == wanted).all()
        np.testing.assert_allclose(scores[there], products, rtol=1e-5)
    else:
        assert len(np.intersect1d(found, wanted)) >= 0.8 * len(wanted)


def test_search_finds_the_largest_products(index):
    rows, scores = index.search(QUERIES, k=10)
    assert rows.shape == scores.shape == (5, 10)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    for query, found, theirs in zip(QUERIES, rows, scores, strict=True):
        check(index, query, found, theirs, FOUND)
    assert index.recall is None if index.kind == "flat" else index.recall >= 0.9
    assert index.recall_at(QUERIES, 10) >= (1.0 if index.kind == "flat" else 0.9)


@pytest.mark.parametrize("n_allowed", [40, 400])
def test_filters_for_all_and_for_each(index, n_allowed):
    best = index.search(QUERIES, k=20)[0]
    allowed = [RNG.choice(N, n_allowed, replace=False) for _ in QUERIES]
    shared = index.search(QUERIES, k=10, exclude=best[0], allow=allowed[0])
    each = index.search(QUERIES, k=10, exclude=list(best), allow=allowed)
    for number, query in enumerate(QUERIES):
        for (rows, scores), own in ((shared, 0), (each, number)):
            among = FOUND & np.isin(np.arange(N), allowed[own])
            among[best[own]] = False
            check(index, query, rows[number], scores[number], among)
        assert not np.intersect1d(each[0][number], best[number]).size
    rows, scores = index.search(QUERIES[:1], k=4, allow=np.flatnonzero(~FOUND)[:2])
    assert (rows == -1).all()
    assert (scores == -np.inf).all()


def test_saved_and_loaded_it_finds_the_same(index, tmp_path):
    index.save(tmp_path / "index")
    np.save(tmp_path / "items.npy", MATRIX)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    loaded = pf.ItemIndex.load(tmp_path / "index", mapped, threads=1)
    for ours, theirs in zip(index.search(QUERIES), loaded.search(QUERIES), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (loaded.kind, loaded.effort, loaded.recall) == (index.kind, index.effort, index.recall)
    with pytest.raises(pf.CheckpointError, match="another item matrix"):
        pf.ItemIndex.load(tmp_path / "index", MATRIX + 1)
    (tmp_path / "index" / "rows.npy").write_bytes(b"")
    with pytest.raises(pf.CheckpointError, match=r"rows.npy: missing or damaged"):
        pf.ItemIndex.load(tmp_path / "index", MATRIX)
    (tmp_path / "index" / "index.json").write_text(json.dumps({}))
    with pytest.raises(pf.CheckpointError, match=r"index.json: damaged"):
        pf.ItemIndex.load(tmp_path / "index", MATRIX)
    with pytest.raises(pf.CheckpointError, match="no item index"):
        pf.ItemIndex.load(tmp_path / "nowhere", MATRIX)


@pytest.mark.parametrize(
    "change",
    [
        *({"kind": "tree"}, {"kind": []}, {"effort": True}, {"effort": -1}, {"effort": 1 << 40}),
        *({"recall": "all"}, {"recall": 2.0}, {"files": ["rows.npy"]}, {"files": {}}),
        *({"files": {"x" * 300: "a"}}, {"files": {"../rows.npy": "a"}}),
    ],
)
def test_a_card_of_other_values_is_refused(tmp_path, change):
    pf.ItemIndex.build(MATRIX, kind="flat").save(tmp_path / "index")
    card = tmp_path / "index" / "index.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(pf.CheckpointError, match=r"index.json: damaged \("):
        pf.ItemIndex.load(tmp_path / "index", MATRIX)


def test_ties_go_to_the_lower_row_and_the_kind_to_the_size():
    twice = np.concatenate([MATRIX[:20], MATRIX[:20]])
    index = pf.ItemIndex.build(twice, kind="flat")
    rows = index.search(QUERIES, k=40)[0]
    assert (rows[:, 1::2] == rows[:, ::2] + 20).all()
    assert pf.ItemIndex.build(MATRIX[:100]).kind == "flat"
    assert pf.ItemIndex.build(MATRIX, threads=1).kind == "hnsw"
    assert nearest._kind_for(10_000_000) == "ivfpq"


def test_bad_arguments_are_named():
    broken = MATRIX.copy()
    broken[3, 2] = np.nan
    build = pf.ItemIndex.build
    for call, why in (
        (lambda: build(MATRIX.astype(float)), r"matrix must be float32 \[N, D\], got float64"),
        (lambda: build(broken), "row 3 of matrix is not finite"),
        (lambda: build(MATRIX, rows=FOUND[:5]), r"rows has shape \(5,\), not \(700,\)"),
        (lambda: build(MATRIX, rows=~FOUND & FOUND), "leaves no item"),
        (lambda: build(MATRIX, kind="tree"), "unknown kind='tree'"),
        (lambda: build(MATRIX, recall=1.5), "recall must lie in"),
        (lambda: build(MATRIX, threads=0), "threads must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
    index = build(MATRIX, kind="flat")
    for call, why in (
        (lambda: index.search(QUERIES[:, :4]), r"vectors have shape \[5, 4\]"),
        (lambda: index.search(QUERIES * np.nan), "vector 0 is not finite"),
        (lambda: index.search(QUERIES, k=0), "k must be at least 1, got 0"),
        (lambda: index.search(QUERIES, exclude=[900]), r"exclude has the row 900; .* 0\.\.699"),
        (lambda: index.search(QUERIES, allow=[[1], [2]]), "allow has 2 lists for 5 vectors"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
    for call, why in (
        (lambda: index.search(QUERIES, k=2.0), r"k must be a whole number, got 2\.0"),
        (lambda: build(MATRIX, k="5"), "k must be a whole number, got '5'"),
        (lambda: index.search(QUERIES, exclude={1, 2}), "exclude must be a list .*, got a set"),
        (lambda: index.search(QUERIES, allow=[{1}] * 5), "allow must be a list .*, got a set"),
        (lambda: index.search(QUERIES, allow=7), "allow must be a list .*, got a int"),
        (lambda: index.search(QUERIES, allow="17"), "allow must be a list .*, got a str"),
    ):
        with pytest.raises(TypeError, match=why):
            call()
