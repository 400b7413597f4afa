"""Kinds of files, compression, folders of parts."""

import gzip
import json
import os
import sys
import zipfile

import numpy as np
import pytest

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError, MissingExtraError

ROWS = [(1, "b", 1.5), (1, "a", 0.5), (2, "b", 2.5)]
CSV = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)
JSON = "".join(
    json.dumps({"item_id": i, "user_id": u, "timestamp": t}) + "\n\n" for u, i, t in ROWS
)
COLUMNS = dict(zip(("user_id", "item_id", "timestamp"), zip(*ROWS, strict=True), strict=True))


@pytest.fixture
def expected():
    return Interactions.from_arrays(*COLUMNS.values()).fingerprint()


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)


@pytest.mark.parametrize("pyarrow_csv", [True, False])
def test_compressed_text(tmp_path, expected, monkeypatch, pyarrow_csv):
    pyarrow = pytest.importorskip("pyarrow")
    if not pyarrow_csv:
        monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    (tmp_path / "d.csv.gz").write_bytes(
        gzip.compress(CSV[:60].encode()) + gzip.compress(CSV[60:].encode())
    )
    (tmp_path / "d.tsv.GZ").write_bytes(gzip.compress(CSV.replace(",", "\t").encode()))
    (tmp_path / "d.ndjson.gz").write_bytes(gzip.compress(JSON.encode()))
    (tmp_path / "d.csv.zst").write_bytes(pyarrow.compress(CSV.encode(), "zstd", asbytes=True))
    zipped(tmp_path / "d.zip", {"x/d.csv": CSV, "__MACOSX/d.csv": "x", "x/": ""})
    zipped(tmp_path / "d.jsonl.zip", {"d.jsonl": JSON})
    for path in sorted(tmp_path.iterdir()):
        assert Interactions.from_file(path).fingerprint() == expected, path
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(CSV.replace("0.5", "x").encode()))
    with pytest.raises(DataError, match="line 3, column 'timestamp'"):
        Interactions.from_file(tmp_path / "d.csv.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "d.csv.gz",
            gzip.compress(CSV.encode() * 99, mtime=0)[:-9],
            r"d\.csv\.gz: cannot be decompressed",
        ),
        ("d.csv.gz", CSV.encode(), r"d\.csv\.gz: cannot be decompressed .*really \.gz\?"),
        ("d.csv.zst", CSV.encode(), r"cannot be decompressed"),
        ("d.zip", CSV.encode(), r"d\.zip: cannot be decompressed"),
        ("d.gz", b"", r"compressed files hold text, .*such as d\.csv\.gz"),
        ("d.parquet.gz", b"", r"compressed files hold text"),
        ("d.jsonl", b"[1]\n", r"line 1: not a JSON object \(it is a JSON list\)"),
        ("d.jsonl", b'\n{"user_id": 1,\n', r"line 2: not a JSON object"),
        ("d.jsonl", b"\n", r"d\.jsonl: the file is empty"),
        ("d.jsonl", JSON.replace('"b"', "true").encode(), r"line 1, key 'item_id': id True is"),
        ("d.jsonl", JSON.replace("2.5", '"x"').encode(), r"line 5, key 'timestamp'"),
        ("d.jsonl", JSON.replace('"user_id": 2, ', "").encode(), r"line 5, key 'user_id'.*missing"),
        ("d.jsonl", b'{"user_id":1,"item_id":2}\n{"timestamp":3}\n', r"line 2, key 'timestamp'"),
        ("d.jsonl", b"\xff\n", r"d\.jsonl, line 1: not UTF-8"),
        ("d.arrow", b"it is not", r"d\.arrow: not a readable Arrow file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Interactions.from_file(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_told_from_a_file_that_is_not_there(tmp_path):
    os.mkfifo(tmp_path / "d.csv")
    with pytest.raises(DataError, match=r"d\.csv: neither a file nor a folder; save"):
        Interactions.from_file(tmp_path / "d.csv")


def test_an_archive_of_several_files(tmp_path):
    zipped(tmp_path / "d.zip", {"a.csv": CSV, "b.csv": CSV})
    with pytest.raises(DataError, match=r"d\.zip: the archive holds 2 files, not one"):
        Interactions.from_file(tmp_path / "d.zip")


def test_json_lines_have_names_alone(tmp_path):
    (tmp_path / "d.jsonl").write_text(JSON)
    with pytest.raises(DataError, match="keys have names, not positions"):
        Interactions.from_file(tmp_path / "d.jsonl", user=0)
    with pytest.raises(ValueError, match=r"header=False, --no-header, is for \.inter"):
        Interactions.from_file(tmp_path / "d.jsonl", user=0, item=1, header=False)


def test_zst_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "d.csv.zst").write_bytes(b"")
    for name in ("pyarrow", "pyarrow.csv"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow; pip install pdrec_fast\[frames\]"):
        Interactions.from_file(tmp_path / "d.csv.zst")


@pytest.mark.parametrize("name", ["d.arrow", "d.ipc", "d.feather"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files(tmp_path, expected, name, kind):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({name: list(values) for name, values in COLUMNS.items()})
    make = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with make(str(tmp_path / name), table.schema) as writer:
        writer.write_table(table)
    assert Interactions.from_file(tmp_path / name).fingerprint() == expected


class TestFolders:
    def test_parts_in_the_order_of_their_names(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        (tmp_path / "_SUCCESS").touch()
        for name in (".part-00000.parquet.crc", "part-00000.crc", ".DS_Store"):
            (tmp_path / name).write_text("x")
        parts = [
            {"user_id": [1, 1], "item_id": ["d", "c"], "timestamp": [5, 5]},
            {"timestamp": [5], "item_id": ["b"], "user_id": ["1"]},  # other order and type
            {"timestamp": [5, 4], "item_id": ["a", "e"], "user_id": [1, 1]},
        ]
        for number in (2, 0, 1):
            table = pyarrow.table(parts[number])
            parquet.write_table(table, tmp_path / f"part-0000{number}-x.snappy.parquet")
            empty = tmp_path / f"part-1000{number}.parquet"
            parquet.write_table(table.slice(0, 0), empty)
        data = Interactions.from_file(tmp_path)
        assert data.item_ids[data.items].tolist() == ["e", "d", "c", "b", "a"]
        assert data.user_ids.tolist() == [1]

    def test_text_and_what_is_told_of_it_once(self, tmp_path):
        header = "user_id,item_id,timestamp\n"
        (tmp_path / "part-0.csv").write_text(header + "1,nan,1600000000000000001\n")
        (tmp_path / "part-1.csv.gz").write_bytes(
            gzip.compress(f"{header}1,nan,2\nx,y,3\n".encode())
        )
        (tmp_path / "part-2.csv").write_text(header)
        (tmp_path / "part-3.csv").write_text("")
        with pytest.warns(UserWarning, match=r"part-0\.csv, line 2.*'nan' .* 2 records") as caught:
            data = Interactions.from_file(tmp_path)
        assert len(caught) == 1
        assert data.user_ids.tolist() == ["1", "x"]
        assert data.timestamps.tolist() == [2, 1.6e18, 3]

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "the folder holds no parts of data"),
            ({"_SUCCESS": ""}, "the folder holds no parts of data"),
            ({"a.csv": CSV, "b.jsonl": JSON}, r"several kinds \(\.csv, \.jsonl\)"),
            ({"a.csv": CSV, "b.txt": ""}, r"b\.txt: unknown suffix"),
            ({"a.csv": "", "b.csv": ""}, "no records"),
            ({"a.csv": CSV, "b.csv": CSV + "1,2\n"}, r"b\.csv, line 5: 2 fields"),
            (
                {"a.csv": CSV, "b.csv": "user_id,item_id\n1,2\n"},
                r"b\.csv: timestamps in some parts",
            ),
        ],
    )
    def test_folders_that_cannot_be_read(self, tmp_path, files, message):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            Interactions.from_file(tmp_path)

    def test_dates_in_one_part_alone(self, tmp_path):
        (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\n1,2,5\n")
        (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\n1,2,2020-01-01\n")
        with pytest.raises(DataError, match=r"b\.csv: dates in one part, numbers in .*a\.csv"):
            Interactions.from_file(tmp_path)


def test_large_integers_of_json_lines_keep_their_order(tmp_path):
    rows = [(1, "b", 1600000000000000002), (1, "a", 1600000000000000001)]
    lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    data = Interactions.from_file(tmp_path / "d.jsonl")
    assert data.item_ids[data.items].tolist() == ["a", "b"]
    assert data.timestamps.dtype == np.float64
