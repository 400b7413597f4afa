"""Recommendations as a file: the same as at once, resumable, whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.recommending import parts, recommender


@pytest.fixture(scope="module")
def model() -> pf.PDRec:
    data = pf.synthetic(n_users=50, n_items=70, seed=1)
    config: dict[str, Any] = {"encoder_options": {"width": 8}, "modules": (), "epochs": 1}
    return pf.PDRec("sasrec", **config).fit(data, progress=False)


def rows_of(path: Path) -> list[tuple[str, ...]]:
    if path.suffix == ".csv":
        with open(path, newline="") as stream:
            found = list(csv.reader(stream))
        assert found[0] == list(parts.COLUMNS)
        return [(user, item, rank) for user, item, _, rank, _ in found[1:]]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path).to_pydict()
    return [tuple(map(str, row)) for row in zip(table["user"], table["item"], table["rank"])]  # noqa: B905


def expected(found: pf.Recommendations) -> list[tuple[str, ...]]:
    columns = found.columns()
    names = "user", "item", "rank"
    return [tuple(map(str, row)) for row in zip(*(columns[n] for n in names), strict=True)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("part_size", [7, 50, 1000])
def test_a_file_holds_what_recommend_gives(
    model: pf.PDRec, tmp_path: Path, suffix: str, part_size: int
) -> None:
    path = tmp_path / f"all{suffix}"
    model.recommend_to_file(path, k=4, part_size=part_size, progress=False)
    assert rows_of(path) == expected(model.recommend(k=4))
    assert list(tmp_path.iterdir()) == [path]  # no part is left


def test_numbers_of_numpy_are_those_of_python(model: pf.PDRec, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    options: dict[str, Any] = {"filter_seen": np.True_, "part_size": np.int64(20)}
    model.recommend_to_file(path, k=np.int64(4), progress=False, **options)
    assert rows_of(path) == expected(model.recommend(k=4))


def test_unknown_users_and_few_items(model: pf.PDRec, tmp_path: Path) -> None:
    """Integers and strings among the ids, and parts in which nobody gets anything."""
    users = ["nobody", *model.interactions().user_ids[:3].tolist(), "else", "who"]
    for number, unknown in enumerate(("popular", "skip")):
        path = tmp_path / f"{number}.parquet"
        options: dict[str, Any] = {
            "unknown": unknown,
            "exclude": model.interactions().item_ids[:40],
        }
        model.recommend_to_file(path, users, 3, part_size=1, progress=False, **options)
        assert rows_of(path) == expected(model.recommend(users, 3, **options))


def test_a_stopped_job_goes_on(
    model: pf.PDRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "all.csv", []
    real = recommender.best_items

    def stopping(*arguments: Any) -> Any:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recommender, "best_items", stopping)
    with pytest.raises(KeyboardInterrupt):
        model.recommend_to_file(path, k=4, part_size=10, progress=False)
    assert not path.exists()
    with pytest.raises(pf.CheckpointError, match=r"parts of another job.*delete"):
        model.recommend_to_file(path, k=5, part_size=10, progress=False)
    model.recommend_to_file(path, k=4, part_size=10, progress=False)
    assert len(done) == 3 + 3  # the first two of five parts were there
    assert rows_of(path) == expected(model.recommend(k=4))


def test_a_file_is_replaced_whole(model: pf.PDRec, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    model.recommend_to_file(path, k=4, progress=False)
    model.recommend_to_file(path, k=2, progress=False)
    assert len(rows_of(path)) == 100


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("all.xlsx", {}, ValueError, r"\.parquet, \.csv"),
        (".", {}, ValueError, r"\.parquet, \.csv"),
        ("all.csv", {"k": 0}, ValueError, "k must"),
        ("all.csv", {"part_size": 0}, ValueError, "part_size"),
        ("all.csv", {"users": ["nobody"]}, pf.DataError, "nobody"),
        ("all.csv", {"users": [1], "items": [["1"]]}, ValueError, "one list, for all"),
    ],
)
def test_what_is_wrong_is_found_first(
    model: pf.PDRec, tmp_path: Path, name: str, options: dict[str, Any], error: Any, text: str
) -> None:
    with pytest.raises(error, match=text):
        model.recommend_to_file(tmp_path / name, progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_scores_in_a_csv_file_are_those_of_recommend(model: pf.PDRec, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    model.recommend_to_file(path, k=4, progress=False)
    with open(path, newline="") as stream:
        scores = [float(row["score"]) for row in csv.DictReader(stream)]
    np.testing.assert_allclose(scores, model.recommend(k=4).scores.ravel(), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_nobody_is_a_table_without_rows(model: pf.PDRec, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"nobody{suffix}"
    model.recommend_to_file(path, [], 4, progress=False)
    assert rows_of(path) == []
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(model: pf.PDRec, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(pf.WriteError, match=r"all\.csv.* cannot be written: a part of that path"):
        model.recommend_to_file(tmp_path / "file" / "all.csv", k=2, progress=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_part_is_named_and_made_anew(
    model: pf.PDRec, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"all{suffix}"
    options: dict[str, Any] = {"k": 4, "part_size": 10, "progress": False}
    model.recommend_to_file(path, **options)
    whole = path.read_bytes()
    for rank in range(4):
        assert not model.recommend_to_file(path, rank=rank, world=5, **options)
    part = tmp_path / f".all{suffix}.parts" / f"part-000002{suffix}"
    written = part.read_bytes()
    middle = len(written) // 2
    for damaged in (written[:middle], b"", written[:middle] + b"!!" + written[middle + 2 :]):
        path.unlink(missing_ok=True)
        part.write_bytes(damaged)
        with pytest.raises(pf.CheckpointError) as error:
            model.recommend_to_file(path, **options)
        assert str(error.value) == (
            f"{part}: damaged; delete it, and give the command that wrote it again"
        )
        assert not path.exists()
    part.unlink()
    assert model.recommend_to_file(path, **options)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
