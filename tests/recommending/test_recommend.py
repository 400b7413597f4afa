"""To whom, after which history, among which items."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.evaluation import vectors
from pdrec_fast.recommending import best, recommender

EPOCHS: dict[str, Any] = {"epochs": 2, "lr": 5e-3, "select_by": "full"}
K = 6


@pytest.fixture(scope="module")
def data() -> pf.Interactions:
    return pf.synthetic(n_users=60, n_items=90, seed=3)


@pytest.fixture(scope="module")
def split(data: pf.Interactions) -> pf.Split:
    return pf.leave_one_out(data)


@pytest.fixture(scope="module")
def diffusion(split: pf.Split) -> pf.DiffRec:
    return pf.DiffRec(hidden=16, **EPOCHS).fit(split, progress=False)


@pytest.fixture(scope="module")
def plain(split: pf.Split) -> pf.PDRec:
    model = pf.PDRec("sasrec", encoder_options={"width": 16}, modules=(), **EPOCHS)
    return model.fit(split, progress=False)


@pytest.fixture(scope="module")
def fused(plain: pf.PDRec, diffusion: pf.DiffRec) -> pf.PDRec:
    model = plain.prepared()
    model._item_vectors = None
    model.fusion = pf.Fusion({"guide": diffusion}, {"guide": pf.Share(2.0)})
    return model


@pytest.fixture(params=["plain", "fused", "diffusion"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def expected(
    model: Any, history: list[Any], k: int, allowed: Any = None, blocked: Any = ()
) -> list[Any]:
    """The best items after a history of raw ids, one by one from the definition."""
    data = model.interactions()
    items = data.item_index(history).astype(np.int32)
    histories = pf.Histories(items, None, [0], [0], [len(items)], data.n_items)
    scores = model.scores(histories)[0].tolist()
    may = [
        number
        for number, name in enumerate(data.item_ids.tolist())
        if name not in {*history, *blocked} and (allowed is None or name in allowed)
    ]
    order = sorted(may, key=lambda number: (-scores[number], number))[:k]
    found = data.item_ids[order].tolist()
    return found + [None] * (k - len(found))


def raw_history(data: pf.Interactions, user: Any) -> list[Any]:
    number = int(data.user_index(user)[0])
    return data.item_ids[data.items[data.indptr[number] : data.indptr[number + 1]]].tolist()


# --- whom ---------------------------------------------------------------------------------------


def test_a_history_at_hand_is_all_that_is_known(model: Any, data: pf.Interactions) -> None:
    names = data.item_ids[[5, 9, 40]].tolist()
    found = model.recommend(k=K, history=names)
    assert found.items[0].tolist() == expected(model, names, K)
    assert found.users.tolist() == [0]
    several = model.recommend(k=K, history=[names, names[:1]])
    assert several.items[0].tolist() == found.items[0].tolist()
    assert several.items[1].tolist() == expected(model, names[:1], K)


def test_a_history_continues_the_users_records(plain: pf.PDRec, data: pf.Interactions) -> None:
    user, clicks = data.user_ids[7], data.item_ids[[3, 4]].tolist()
    ids, _ = plain.recommend(user, K, history=[clicks])
    assert ids[0].tolist() == expected(plain, raw_history(data, user) + clicks, K)


def test_times_put_a_history_in_order(plain: pf.PDRec, data: pf.Interactions) -> None:
    names = data.item_ids[[5, 9, 40]].tolist()
    ids, _ = plain.recommend(k=K, history=names, times=[30.0, 10.0, 20.0])
    assert ids[0].tolist() == expected(plain, [names[1], names[2], names[0]], K)
    dates = ["2020-03-01", "2020-01-01", "2020-02-01T10:00Z"]
    again, _ = plain.recommend(k=K, history=names, times=dates)
    assert (again == ids).all()
    user = data.user_ids[2]
    assert data.timestamps is not None
    before = [[data.timestamps.min() - 1.0] * 2]
    ids, _ = plain.recommend(user, K, history=[names[:2]], times=before)
    assert ids[0].tolist() == expected(plain, names[:2] + raw_history(data, user), K)


def test_everybody_unless_somebody_is_named(model: Any, data: pf.Interactions) -> None:
    everybody = model.recommend(k=3)
    assert everybody.users.tolist() == data.user_ids.tolist()
    some, _ = model.recommend(data.user_ids[[8, 2]], 3)
    assert some.tolist() == everybody.items[[8, 2]].tolist()
    assert model.recommend([], 3).items.shape == (0, 3)


def test_newer_data_are_matched_by_raw_id(model: Any, data: pf.Interactions) -> None:
    """Shuffled catalogue, a new item in between, a new user: the same as the history at hand."""
    names = data.item_ids[[7, 30, 31, 2]].tolist()
    newer = pf.Interactions.from_arrays(
        ["new"] * 5 + ["other"], [*names[:2], "unheard", *names[2:], names[0]], np.arange(6.0)
    )
    with pytest.warns(UserWarning, match="1 record.* of 1 item"):
        found = model.recommend("new", K, data=newer)
    assert found.users.tolist() == ["new"]
    times = [0.0, 1.0, 3.0, 4.0]
    again = model.recommend(k=K, history=[names], times=[times])
    assert found.items[0].tolist() == again.items[0].tolist()


def test_the_same_data_again_change_nothing(model: Any, data: pf.Interactions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = model.recommend(k=4, data=replace(data))
    assert (again.items == model.recommend(k=4).items).all()


def test_items_that_the_model_does_not_know_are_counted(
    plain: pf.PDRec, data: pf.Interactions
) -> None:
    names = data.item_ids[[5, 9]].tolist()
    with pytest.warns(UserWarning, match=r"2 item.*'nothing', 'at all'"):
        ids, _ = plain.recommend(k=K, history=[names[0], "nothing", names[1], "at all"])
    assert ids[0].tolist() == expected(plain, names, K)


# --- of whom nothing is known -------------------------------------------------------------------


@pytest.fixture(scope="module")
def newcomer() -> pf.PDRec:
    """User "late" has only items that came after the training."""
    users = ["a"] * 5 + ["b"] * 5 + ["late"] * 3
    items = [1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 8, 9]
    times = [*range(10), 20, 21, 22]
    data = pf.Interactions.from_arrays(users, items, np.array(times, float))
    train = pf.Interactions(
        np.array([0, 5, 10, 10]), data.items[:10], data.timestamps[:10], data.user_ids,
        data.item_ids,
    )  # fmt: skip
    model = pf.PDRec("sasrec", encoder_options={"width": 8}, modules=(), epochs=1)
    model.fit(train, progress=False)
    model.data = data
    return model


def test_nothing_known_is_an_error_that_says_so(newcomer: pf.PDRec) -> None:
    with pytest.raises(pf.DataError, match=r"nothing is known.*popular"):
        newcomer.recommend("late", 3)
    with pytest.raises(pf.DataError, match=r"unknown user id.*'nobody'"):
        newcomer.recommend(["a", "nobody"], 3)
    with pytest.raises(pf.DataError, match="nothing is known"):
        newcomer.recommend(k=3, history=[7, 8])


def test_popular_items_are_marked(newcomer: pf.PDRec) -> None:
    found = newcomer.recommend(["late", "a", "nobody"], 3, unknown="popular")
    assert found.fallback.tolist() == [True, False, True]
    assert found.items[0].tolist() == found.items[2].tolist() == [2, 3, 4]
    assert found.scores[0].tolist() == [2.0, 2.0, 2.0]
    assert found.items[1].tolist() == newcomer.recommend("a", 3).items[0].tolist()
    frame = found.to_frame()
    assert frame["fallback"].tolist() == [True] * 3 + [False] * 3 + [True] * 3
    # What was not trained on is popular nowhere, however often it occurs.
    assert not {7, 8, 9} & set(newcomer.recommend("late", 6, unknown="popular").items[0])


def test_skipped_rows_are_empty(newcomer: pf.PDRec) -> None:
    found = newcomer.recommend(["late", "a", "nobody"], 3, unknown="skip")
    assert found.items[[0, 2]].tolist() == [[None] * 3] * 2
    assert (found.scores[[0, 2]] == -np.inf).all()
    assert not found.fallback.any()
    assert set(found.to_frame()["user"]) == {"a"}


# --- among which --------------------------------------------------------------------------------


def test_allowed_and_excluded_for_all(model: Any, data: pf.Interactions) -> None:
    user = data.user_ids[4]
    seen = raw_history(data, user)
    allowed = data.item_ids[10:60].tolist()
    blocked = data.item_ids[20:40].tolist()
    ids, scores = model.recommend(user, K, items=allowed, exclude=blocked)
    if model.name != "DiffRec":  # times count there
        assert ids[0].tolist() == expected(model, seen, K, allowed, blocked)
    assert set(ids[0]) <= set(allowed) - set(blocked) - set(seen)
    assert (np.diff(scores[0]) <= 0).all()


def test_allowed_and_excluded_for_each(plain: pf.PDRec, data: pf.Interactions) -> None:
    users = data.user_ids[[1, 2]]
    allowed = [data.item_ids[:30].tolist(), data.item_ids[50:].tolist()]
    blocked = [data.item_ids[:25].tolist(), []]
    ids, _ = plain.recommend(users, K, items=allowed, exclude=blocked)
    for row, user, may, not_these in zip(ids, users, allowed, blocked, strict=True):
        assert row.tolist() == expected(plain, raw_history(data, user), K, may, not_these)
    assert None in ids[0]  # five items, less those seen


def test_seen_items_may_be_wanted(plain: pf.PDRec, data: pf.Interactions) -> None:
    user = data.user_ids[1]
    seen = raw_history(data, user)
    ids, _ = plain.recommend(user, K, items=seen, filter_seen=False)
    assert set(ids[0]) - {None} <= set(seen)
    assert plain.recommend(user, K, items=seen).items[0].tolist() == [None] * K


def test_an_unknown_item_of_an_allow_list(plain: pf.PDRec, data: pf.Interactions) -> None:
    with pytest.warns(UserWarning, match="1 of 2 item ids of items="):
        plain.recommend(data.user_ids[0], 2, items=["nonsense", data.item_ids[3]])
    with pytest.raises(pf.DataError, match="none of the 2 item ids"):
        plain.recommend(data.user_ids[0], 2, items=["nonsense", "more"])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"unknown": "guess"}, ValueError, "unknown='guess'"),
        ({"history": "17"}, TypeError, "history"),
        ({"history": 17}, TypeError, "history"),
        ({"history": [["1"], "2"]}, TypeError, "mixes"),
        ({"users": [1, 2], "history": [["1"]]}, ValueError, "one history for each"),
        ({"users": [1], "times": [[1.0]]}, ValueError, "history="),
        ({"history": ["1", "2"], "times": [1.0]}, ValueError, "one value for each"),
        ({"history": ["1"], "times": [float("nan")]}, ValueError, "times: nan"),
        ({"history": ["1"], "times": ["soon"]}, ValueError, "times: 'soon'"),
        ({"users": [1], "items": "17"}, TypeError, "items"),
        ({"users": [1], "exclude": [["1"], "2"]}, TypeError, "mixes"),
        ({"users": [1], "exclude": [["1"], ["2"]]}, ValueError, "2 lists for 1"),
        ({"users": [1], "data": "clicks.csv"}, TypeError, "Interactions"),
        ({"users": [1], "k": 0}, ValueError, "k must"),
        ({"users": [1], "block_size": 0}, ValueError, "block_size"),
        ({"users": [1], "k": 2.0}, TypeError, r"k must be a whole number, got 2\.0"),
        ({"users": [1], "k": "5"}, TypeError, "k must be a whole number, got '5'"),
        ({"users": [1], "k": True}, TypeError, "k must be a whole number, got True"),
        ({"users": [1], "block_size": 2.5}, TypeError, "block_size must be a whole number"),
        ({"users": {1, 2}}, TypeError, "users is a set, which has no order: give a list"),
        ({"history": {"1", "2"}}, TypeError, "history is a set, which has no order"),
        ({"history": [frozenset(["1"])]}, TypeError, "a row of history is a frozenset"),
        ({"history": {1: ["1", "2"]}}, TypeError, "history is a dict: give a list"),
        ({"users": [1], "exclude": {1: ["1", "2"]}}, TypeError, "exclude is a dict: give a list"),
        ({"users": [1], "exclude": np.ones(90, bool)}, TypeError, "True is no raw id"),
        ({"users": [1], "items": [b"1"]}, TypeError, "b'1' is no raw id"),
        (
            {"users": ["\ud800"], "unknown": "popular"},
            pf.DataError,
            r"'\\ud800' is no Unicode text",
        ),
    ],
)
def test_wrong_arguments(
    plain: pf.PDRec, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        plain.recommend(**options)


def test_wrong_arguments_of_its_neighbours(plain: pf.PDRec, data: pf.Interactions) -> None:
    known = {data.item_ids[0], data.item_ids[1]}
    for call, text in (
        (lambda: plain.similar_items(data.item_ids[0], 2.0), "k must be a whole number, got 2.0"),
        (lambda: plain.similar_items(known), "raw_ids is a set, which has no order"),
        (lambda: data.item_index(known), "raw_ids is a set, which has no order"),
        (lambda: data.find_users({1}), "raw_ids is a set, which has no order"),
        (lambda: plain.scores_for({(1, 2)}), "pairs is a set, which has no order"),
        (lambda: data.find_items(data.item_ids > 3), "is no raw id"),
        (lambda: plain.export("nowhere", k="5", onnx=False), "k must be a whole number, got '5'"),
    ):
        with pytest.raises(TypeError, match=text):
            call()
    with pytest.raises(ValueError, match="pairs have 2 users and 1 items"):
        plain.scores_for({"user": data.user_ids[:2], "item": data.item_ids[:1]})
    # Of what may be recommended the order does not count.
    users = data.user_ids[:2]
    as_set, as_list = (plain.recommend(users, 2, items=kind(known)) for kind in (set, list))
    assert (as_set.items == as_list.items).all()


# --- as vectors, and on other devices -----------------------------------------------------------


def test_vectors_give_what_scores_give(
    model: Any, data: pf.Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = data.item_ids[20:40].tolist()
    own = [data.item_ids[:number].tolist() for number in range(data.n_users)]
    options: list[dict[str, Any]] = [{}, {"exclude": blocked}, {"exclude": own}]
    options += [{"items": blocked}, {"filter_seen": False}]
    dense = [model.recommend(k=K, **some) for some in options]
    assert model.has_user_vectors
    calls = []
    select = best.select_projected
    monkeypatch.setattr(best, "uses_vectors", lambda scorer: True)  # as on a GPU
    monkeypatch.setattr(
        best, "select_projected", lambda *a, **b: calls.append(1) or select(*a, **b)
    )
    for some, wanted in zip(options, dense, strict=True):
        found = model.recommend(k=K, **some)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
        assert (found.items == wanted.items).mean() > 0.99  # but for scores a rounding apart
    assert len(calls) == len(options)


def test_a_log_share_is_no_product(plain: pf.PDRec, diffusion: pf.DiffRec) -> None:
    model = plain.prepared()
    model.fusion = pf.Fusion({"guide": diffusion}, {"guide": pf.Share(0.5, "log")})
    assert not model.has_user_vectors
    assert not vectors.uses_vectors(model)


def test_cold_items_are_left_out_of_vectors(split: pf.Split) -> None:
    options = {"width": 8}
    model = pf.PDRec(
        "sasrec", encoder_options=options, modules=(), rank_cold_items=False, **EPOCHS
    ).fit(split, progress=False)
    histories = split.data.histories()[:5]
    table, offsets = model.item_vectors
    products = model.user_vectors(histories) @ table.T + offsets
    torch.testing.assert_close(products, model.scores(histories))


# --- similar items and pairs --------------------------------------------------------------------


def test_similar_items_are_cosines(model: Any, data: pf.Interactions) -> None:
    asked = data.item_ids[model.trained_items][[2, 5]]
    ids, cosines = model.similar_items(asked, 4)
    directions = model.item_directions().double()
    at = data.item_index(asked)
    for row, item in enumerate(at):
        everything = directions @ directions[item]
        everything[item] = -9
        everything[~torch.from_numpy(model.trained_items)] = -9
        order = everything.argsort(descending=True, stable=True)[:4]
        assert ids[row].tolist() == data.item_ids[order.numpy()].tolist()
        np.testing.assert_allclose(cosines[row], everything[order], rtol=1e-5, atol=1e-6)
    with pytest.raises(pf.DataError, match="unknown item"):
        model.similar_items(["nonsense"])
    with pytest.raises(ValueError, match="k must lie"):
        model.similar_items(asked, data.n_items)


def test_an_item_without_records_is_like_nothing(newcomer: pf.PDRec) -> None:
    with pytest.raises(pf.DataError, match="'9' has no record"):
        newcomer.similar_items([2, 9], 2)


def test_scores_of_pairs_are_those_of_recommend(model: Any, data: pf.Interactions) -> None:
    pd = pytest.importorskip("pandas")
    found = model.recommend(data.user_ids[[9, 3]], K)
    pairs = [
        (user, item)
        for user, row in zip(found.users.tolist(), found.items.tolist(), strict=True)
        for item in row
    ][::-1]
    scores = model.scores_for(pairs)
    np.testing.assert_allclose(scores, found.scores.ravel()[::-1], rtol=1e-5, atol=1e-5)
    frame = pd.DataFrame(pairs, columns=["user", "item"])[["item", "user"]]
    assert (model.scores_for(frame) == scores).all()
    assert (model.scores_for(np.array(pairs)) == scores).all()
    assert model.scores_for([]).shape == (0,)


def test_unknown_pairs(newcomer: pf.PDRec) -> None:
    pairs = [("a", 2), ("late", 2), ("nobody", 2), ("b", 77), ("b", 6)]
    scores = newcomer.scores_for(pairs, unknown="skip")
    assert np.isnan(scores).tolist() == [False, True, True, True, False]
    with pytest.raises(pf.DataError, match="nobody"):
        newcomer.scores_for(pairs)
    with pytest.raises(ValueError, match="popular"):
        newcomer.scores_for(pairs, unknown="popular")
    with pytest.raises(ValueError, match="pairs"):
        newcomer.scores_for(["a", 2])


def test_tables_of_pairs_go_by_their_column_names(plain: pf.PDRec, data: pf.Interactions) -> None:
    pd, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    pairs = [(data.user_ids[3].item(), data.item_ids[8].item())]
    expected = plain.scores_for(pairs)
    columns = {"item_id": [pairs[0][1]], "user_id": [pairs[0][0]]}
    for table in (columns, pd.DataFrame(columns), pyarrow.table(columns)):
        assert plain.scores_for(table) == expected
    with pytest.raises(ValueError, match="columns user and item"):
        plain.scores_for({"who": [1], "what": [2]})


def test_ids_of_every_container(plain: pf.PDRec, data: pf.Interactions) -> None:
    """Rows of rows of any kind, and whole floats as a join with gaps makes them."""
    pd, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rows = [data.item_ids[[5, 9]].tolist(), data.item_ids[[40]].tolist()]
    expected = plain.recommend(k=K, history=rows).items
    kinds = [
        [np.array(row) for row in rows],
        [torch.tensor(row) for row in rows],
        [pd.Series(row) for row in rows],
        pyarrow.array(rows),
        [[float(item) for item in row] for row in rows],
    ]
    users = data.user_ids[[1, 2]]
    allowed = plain.recommend(users, K, items=rows, filter_seen=False).items
    for kind in kinds:
        assert (plain.recommend(k=K, history=kind).items == expected).all()
        assert (plain.recommend(users, K, items=kind, filter_seen=False).items == allowed).all()
    assert (plain.recommend(users.astype(float), K).items == plain.recommend(users, K).items).all()
    with pytest.raises(TypeError, match="in one list"):
        plain.recommend([[1, 2]], K)


def test_similar_items_in_blocks(
    plain: pf.PDRec, data: pf.Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = data.item_ids[plain.trained_items]
    ids, cosines = plain.similar_items(asked, 5)
    monkeypatch.setattr(recommender, "rows_per_block", lambda n_items, on_gpu: 7)
    again, likewise = plain.similar_items(asked, 5)
    assert (ids == again).all()
    np.testing.assert_allclose(cosines, likewise, rtol=1e-6)


# --- as a table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_frames(newcomer: pf.PDRec, kind: Any) -> None:
    pytest.importorskip({"arrow": "pyarrow"}.get(kind, kind))
    found = newcomer.recommend(["b", "a"], 2)
    frame = found.to_frame(kind)
    columns = frame.to_pydict() if kind == "arrow" else {n: list(frame[n]) for n in frame.columns}
    assert columns["user"] == ["b", "b", "a", "a"]
    assert columns["rank"] == [1, 2, 1, 2]
    assert columns["item"] == found.items.ravel().tolist()
    np.testing.assert_array_equal(np.float32(columns["score"]), found.scores.ravel())


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_frames_of_nobody_have_columns_of_text(newcomer: pf.PDRec, kind: Any) -> None:
    pytest.importorskip({"arrow": "pyarrow"}.get(kind, kind))
    found = newcomer.recommend(["late"], 2, unknown="skip").to_frame(kind)
    assert len(found) == 0
    if kind == "polars":
        assert str(found.schema["user"]) == "String"
    if kind == "arrow":
        assert str(found.schema.field("user").type) == "string"


def test_an_unknown_kind_of_frame(newcomer: pf.PDRec) -> None:
    with pytest.raises(ValueError, match="'excel'"):
        newcomer.recommend("a", 2).to_frame("excel")  # type: ignore[arg-type]


def test_a_model_saved_without_data_says_so(diffusion: pf.DiffRec) -> None:
    guide = pf.DiffRec.from_contents(diffusion.contents(), "here")
    with pytest.raises(pf.NotFittedError, match=r"set model\.data"):
        guide.recommend(k=2)


def test_a_saved_diffusion_model_recommends(
    diffusion: pf.DiffRec, tmp_path: Any, data: pf.Interactions
) -> None:
    diffusion.save(tmp_path / "model")
    loaded = pf.DiffRec.load(tmp_path / "model")
    assert (loaded.recommend(k=3).items == diffusion.recommend(k=3).items).all()
