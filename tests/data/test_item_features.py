"""Features of items from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdrec_fast.data.item_features import read_item_features
from pdrec_fast.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_columns_and_lists_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("item_id,a,b\nx,1,2.5\ny,-3,0\n")
    (tmp_path / "f.tsv").write_text("item_id\ta\tb\nx\t1\t2.5\ny\t-3\t0\n")
    lists = pyarrow.table({"item_id": ["x", "y"], "vector": [[1, 2.5], [-3, 0]]})
    parquet.write_table(lists, tmp_path / "f.parquet")
    for name in ("f.csv", "f.tsv", "f.parquet"):
        ids, vectors = read_item_features(tmp_path / name)
        assert ids == ["x", "y"]
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [[1, 2.5], [-3, 0]]


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("item_id,a\n007,1\n1e5,2\ntrue,3\n12:30,4\n")
    assert read_item_features(tmp_path / "f.csv")[0] == ["007", "1e5", "true", "12:30"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,a\n1,2\n", "no column 'item_id'"),
        ("item_id\n1\n", "no features"),
        ("item_id,a,a\n1,2,3\n", "'a' occurs twice"),
        ("item_id,a\n1,2\n2,\n", r"column 'a': 1 missing"),
        ("item_id,a\n1,2\n2,blue\n", r"column 'a': neither numbers"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_item_features(tmp_path / "f.csv")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.xlsx").write_text("item_id,a\n1,2\n")
    with pytest.raises(DataError, match="unknown suffix"):
        read_item_features(tmp_path / "f.xlsx")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_item_features(tmp_path / "g.csv")
    (tmp_path / "f.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        read_item_features(tmp_path / "f.parquet")
