"""Damaged files and odd values that fuzzing found not to be refused well (``bench/fuzz``)."""

import io
import json
import zipfile
from decimal import Decimal

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.data import Interactions
from pdrec_fast.data.item_features import read_item_features
from pdrec_fast.data.preparing import prepare
from pdrec_fast.data.store import PartWriter, write_card, write_ids
from pdrec_fast.errors import DataError
from pdrec_fast.fitting.bundle import (
    MANIFEST,
    _manifest_checksum,
    making,
    read_bundle,
    write_bundle,
)
from pdrec_fast.pipeline.run_directory import reserved_directory
from pdrec_fast.settings import with_settings
from pdrec_fast.studies.schema import TABLES, read_table

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
TEXT = b"user_id,item_id\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(300))


def refusal(read, *arguments, **settings):
    """The message of a DataError, which is one line."""
    with pytest.raises(DataError) as caught:
        read(*arguments, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def stored(method):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("d.csv", TEXT)
    return bytearray(stream.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_damaged_in_its_middle(tmp_path, method):
    path, content = tmp_path / "d.csv.zip", stored(method)
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    assert "d.csv.zip: cannot be decompressed" in refusal(Interactions.from_file, path)


@pytest.mark.parametrize(("header", "flags", "name"), [(b"PK\3\4", 7, 30), (b"PK\1\2", 9, 46)])
def test_a_zip_whose_name_is_no_text(tmp_path, header, flags, name):
    """Before the content, and in the directory at the end."""
    path = tmp_path / "d.csv.zip"
    content = bytearray(stored(zipfile.ZIP_STORED))
    start = content.index(header)
    content[start + flags] |= 0x08  # says that the name is UTF-8
    content[start + name] = 0xE7
    path.write_bytes(content)
    assert "d.csv.zip: cannot be decompressed" in refusal(Interactions.from_file, path)


def test_a_zip_whose_file_has_no_name(tmp_path):
    path = tmp_path / "d.csv.zip"
    content = stored(zipfile.ZIP_STORED)
    start = content.rindex(b"d.csv")
    content[start : start + 5] = bytes(5)
    path.write_bytes(content)
    assert "the archive holds 0 files" in refusal(Interactions.from_file, path)


def test_arrow_files_whose_offsets_lead_out_of_the_file(tmp_path):
    """These ended the process."""
    path = tmp_path / "d.arrow"
    table = pyarrow.table({"user_id": ["abc", "de"], "item_id": ["x", "y"]})
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    offsets = np.array([0, 3, 5], np.int32).tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 3, 2**30], np.int32).tobytes()))
    assert "d.arrow: not a readable Arrow file" in refusal(Interactions.from_file, path)


@pytest.mark.parametrize("read", [Interactions.from_file, read_item_features])
def test_parquet_with_a_damaged_footer(tmp_path, read):
    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"user_id": [1], "item_id": [2]}), path)
    content = bytearray(path.read_bytes())
    content[-200:-100] = b"\xff" * 100
    path.write_bytes(content)
    assert str(path) in refusal(read, path)


@pytest.mark.parametrize("read", [Interactions.from_file, read_item_features])
def test_parquet_whose_text_is_no_utf8(tmp_path, read):
    path = tmp_path / "d.parquet"
    table = pyarrow.table({"user_id": ["ab"], "item_id": ["xyzxyz"]})
    parquet.write_table(table, path, compression="none", write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"xyzxyz", b"xyz\xff\xffz"))
    assert str(path) in refusal(read, path)


def test_features_whose_names_are_no_utf8(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"item_id,\xff\xfe\n1,2\n")
    assert "d.csv: cannot be read" in refusal(read_item_features, path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            b'{"user_id": "\\ud800", "item_id": 1}',
            "line 2, key 'user_id': id '\\\\ud800' is no Unicode",
        ),
        (b'{"a":' * 3000, r"line 2: not a JSON object \(it is nested too deeply\)"),
        (b'{"user_id": 1, "user_id": 2, "item_id": 1}', "the key 'user_id' occurs more than once"),
    ],
)
def test_json_lines(tmp_path, line, words):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"user_id": "a", "item_id": 1}\n' + line)
    with pytest.raises(DataError, match=words):
        Interactions.from_file(path)


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x1c", "\u202e"])
def test_what_a_message_quotes_is_in_its_line(tmp_path, odd):
    path = tmp_path / "d.csv"
    path.write_text(f"user_id,item_id,timestamp\n1,2,3{odd}4\n", encoding="utf-8")
    message = refusal(Interactions.from_file, path)
    assert message.isprintable()
    assert repr(odd)[1:-1] in message


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Decimal("sNaN"), "the id is missing"),
        (Decimal("Infinity"), "neither a string nor a whole number"),
        (Decimal("1e5000"), "neither a string nor a whole number"),
        (10**5000, "more digits than Python writes"),
    ],
    ids=["a signalling NaN", "infinity", "a long decimal", "a long integer"],
)
def test_odd_numbers_as_ids(odd, words):
    message = refusal(Interactions.from_arrays, [1, odd], [1, 2], [1, 2])
    assert words in message
    assert "row 1" in message


def test_long_decimals_are_ids():
    data = Interactions.from_arrays([Decimal("1e40"), Decimal("3.0")], [1, 2], [1, 2])
    assert data.user_ids.tolist() == ["1" + "0" * 40, "3"]


@pytest.mark.parametrize(
    "header",
    [
        b"(" * 3000,
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        b"{'descr': '<i8', 'fortran_order': False, None: (3,)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
    ],
)
@pytest.mark.parametrize("n_items", [0, 2])
def test_arrays_of_a_store_with_a_made_up_header(tmp_path, header, n_items):
    writer = PartWriter(tmp_path, "part-00000", 1, False)
    writer.add(np.array([1]), np.array([0]), None)
    card = {"user_ids": "int64", "item_ids": "int64", "n_items": n_items, "timestamps": False}
    write_card(tmp_path, card | {"parts": [writer.finish("int64")]})
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    for content in (
        magic + header + bytes(16),
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04",
    ):
        (tmp_path / "item_ids.npy").write_bytes(content)
        assert "item_ids.npy: cannot be opened" in refusal(Interactions.from_store, tmp_path)


def test_parts_whose_rows_fall(tmp_path):
    parts = []
    for number in range(2):
        writer = PartWriter(tmp_path, f"part-{number:05}", 2, False)
        writer.add(np.array([number, number + 2]), np.array([0, 0]), None)
        parts.append(writer.finish("int64"))
    write_ids(tmp_path / "item_ids", np.array([7]), "int64")
    card = {"user_ids": "int64", "item_ids": "int64", "n_items": 1, "timestamps": False}
    write_card(tmp_path, card | {"parts": parts})
    assert Interactions.from_store(tmp_path).n_records == 4
    np.save(tmp_path / "part-00001.indptr.npy", np.array([0, 3, 2]))
    assert "decreases" in refusal(Interactions.from_store, tmp_path)


def test_a_card_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "store.json").write_text('{"a":' * 3000)
    assert "store.json: not a store's card" in refusal(Interactions.from_store, tmp_path)


def test_prepare_of_a_header_that_the_csv_module_does_not_take(tmp_path):
    pytest.importorskip("duckdb")
    (tmp_path / "d.csv").write_bytes(b"user_id,item_id" + b"x" * 140_000 + b"\n1,2\n")
    assert "d.csv, line 1: the row cannot" in refusal(
        prepare, tmp_path / "d.csv", tmp_path / "store"
    )


def test_parquet_that_tells_of_more_rows_than_it_holds(tmp_path):
    path, table = tmp_path / "d.parquet", pyarrow.table({"user_id": [1, 2], "item_id": [3, 4]})
    parquet.write_table(table, path)
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(footer, len(content)):  # the first 2 rows (4, zigzag) are the file's
        changed = content[:place] + b"\x46" + content[place + 1 :]
        path.write_bytes(changed)
        try:
            told = parquet.ParquetFile(path).metadata.num_rows
        except (pyarrow.ArrowException, OSError):
            continue
        if content[place] == 4 and told == 35:
            break
    else:
        pytest.fail("no place for the number of rows")
    assert "tells of 35 rows and holds 2" in refusal(Interactions.from_file, path)


def test_settings_beyond_any_float():
    with pytest.raises(ValueError, match="width must be at most"):
        with_settings(pf.RunConfig(), {"encoder.width": 10**400})
    with pytest.raises(ValueError, match=r"linear\.ridge: 1000.* beyond any float"):
        with_settings(pf.RunConfig(), {"linear.ridge": 10**400})


def test_a_study_with_a_whole_number_beyond_64_bits(tmp_path):
    pytest.importorskip("pandas")
    columns = TABLES["results"]
    cells = ["9" * 30 if kind is int else "1" for kind in columns.values()]
    (tmp_path / "results.csv").write_text(",".join(columns) + "\n" + ",".join(cells) + "\n")
    assert "results.csv, line 2, column" in refusal(read_table, tmp_path, "results")


@pytest.mark.parametrize(
    "change", [{"n_users": float("-inf")}, {"n_users": 2.5}, {"n_users": 0}, {"part_size": 0}]
)
def test_preferences_in_parts_of_an_impossible_number(tmp_path, change):
    data = pf.synthetic(n_users=12, n_items=10, seed=1)
    model = pf.Popularity().fit(data)
    options = {"top_m": 2, "n_draws": 4, "part_size": 7, "progress": False}
    pf.Preferences.infer_parts(model, data, tmp_path, **options)
    job = tmp_path / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | change))
    with pytest.raises(pf.CheckpointError, match=rf"job.json: damaged \({next(iter(change))} is"):
        pf.Preferences.load(tmp_path)


def test_a_run_whose_description_has_a_number_for_a_group(tmp_path):
    about = {"version": "0", "config": pf.RunConfig().describe(), "data": "abc"}
    damaged = about | {"config": about["config"] | {"pdrec": 7}}
    (tmp_path / "run.json").write_text(json.dumps(damaged))
    refused = pytest.raises(pf.CheckpointError, match=r"run\.json: damaged")
    with refused, reserved_directory(tmp_path, "run", about):
        pass


@pytest.mark.parametrize(
    ("encoder", "name"),
    [("sasrec", "blocks"), ("ligr", "blocks"), ("gru4rec", "layers"), ("caser", "window")],
)
def test_an_encoder_of_millions_of_layers(encoder, name):
    with pytest.raises(ValueError, match=f"{name} must be at most 1000, got 1000000"):
        pf.PDRec(encoder, encoder_options={name: 10**6})


@pytest.mark.parametrize("change", [{"format": None}, {"meta": None}, {"files": 7}])
def test_a_resealed_manifest_without_what_it_needs(tmp_path, change):
    write_bundle(tmp_path, "model", {}, {})
    manifest = json.loads((tmp_path / MANIFEST).read_text()) | change
    manifest = {key: value for key, value in manifest.items() if value is not None}
    manifest["checksum"] = _manifest_checksum(manifest)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(pf.CheckpointError, match=r"manifest.json: damaged \("):
        read_bundle(tmp_path, "model")


def test_an_infinite_number_where_a_model_needs_a_whole_one(tmp_path):
    with pytest.raises(pf.CheckpointError, match="OverflowError"), making(tmp_path):
        int(float("inf"))


def test_a_time_of_json_beyond_any_float(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"user_id": 1, "item_id": 2, "timestamp": 1' + "0" * 400 + "}\n")
    with pytest.raises(pf.DataError, match=r"line 1, key 'timestamp'"):
        pf.Interactions.from_file(path)
