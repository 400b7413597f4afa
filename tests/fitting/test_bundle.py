"""Bundles: round trips, writes killed at any point, and every kind of damage."""

import json
import os
import shutil

import pytest
import torch

from pdrec_fast.baselines import ItemKNN
from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import checksum
from pdrec_fast.fitting import bundle
from pdrec_fast.fitting.bundle import MANIFEST, bundle_exists, read_bundle, write_bundle

KIND = "toy model"


def tensors(value=1.0):
    return {"weights": {"a": torch.full((3, 2), value), "step": torch.tensor(7)}}


def write(path, number=1):
    write_bundle(path, KIND, {"number": number}, tensors(float(number)))


def read_number(path):
    """The number that was written, once meta and tensors agree on it."""
    meta, files = read_bundle(path, KIND)
    assert torch.equal(files["weights"]["a"], torch.full((3, 2), float(meta["number"])))
    return meta["number"]


def test_round_trip_keeps_values_dtypes_and_shapes(tmp_path):
    written = {
        "weights": {
            "float": torch.randn(4, 3).T,  # not contiguous
            "double": torch.randn(2, dtype=torch.float64),
            "bf16": torch.randn(3).bfloat16(),
            "scalar": torch.tensor(5),
            "empty": torch.zeros(0, 4),
            "learned": torch.randn(2, requires_grad=True),
        },
        "state": {"counts": torch.arange(3), "mask": torch.tensor([True, False])},
        "nothing": {},
    }
    meta = {"text": "ω", "pair": (1, 2.5), "none": None, "nested": {"deep": [True, -1.0]}}
    write_bundle(tmp_path / "deep" / "model", KIND, meta, written)
    read_meta, read_files = read_bundle(tmp_path / "deep" / "model", KIND)
    assert read_meta == {**meta, "pair": [1, 2.5]}
    assert read_files.keys() == written.keys()
    for name, expected in written.items():
        assert read_files[name].keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(read_files[name][key], tensor.detach())
            assert read_files[name][key].dtype == tensor.dtype


def test_a_bundle_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """The manifest was that of one and the weights those of the other: damaged, it was said."""
    write(tmp_path / "b", 1)

    def replaced_meanwhile(file):
        monkeypatch.setattr(bundle, "checksum", checksum)
        write(tmp_path / "b", 2)
        return checksum(file)

    monkeypatch.setattr(bundle, "checksum", replaced_meanwhile)
    assert read_number(tmp_path / "b") == 2


def test_keys_of_meta_become_strings(tmp_path):
    # JSON has no other keys; as numbers they sort differently, which must not upset the checksum.
    write_bundle(tmp_path / "m", KIND, {"by_epoch": {10: 0.5, 9: 0.25}}, {})
    assert read_bundle(tmp_path / "m", KIND)[0] == {"by_epoch": {"9": 0.25, "10": 0.5}}


def test_writing_again_replaces_everything(tmp_path):
    path = tmp_path / "model"
    write_bundle(path, KIND, {"number": 1}, {**tensors(), "old": {"b": torch.ones(1)}})
    write(path, 2)
    assert read_number(path) == 2
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, "weights.safetensors"]
    assert os.listdir(tmp_path) == ["model"]


def test_exists_only_when_finished(tmp_path):
    path = tmp_path / "model"
    assert not bundle_exists(path)
    path.mkdir()
    assert not bundle_exists(path)
    write(path)
    assert bundle_exists(path)
    assert bundle_exists(str(path))


class Killed(BaseException):
    """Stands for the process being killed: no handler of the code under test sees it."""


def kill_at(monkeypatch, call):
    """Let the ``call``-th change to the file system not happen; returns the calls made so far."""
    made = []

    def dying(function):
        def wrapper(*arguments, **settings):
            made.append(function.__name__)
            if len(made) == call:
                raise Killed
            return function(*arguments, **settings)

        return wrapper

    monkeypatch.setattr(os, "rename", dying(os.rename))
    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))
    monkeypatch.setattr(bundle, "save_file", dying(bundle.save_file))
    monkeypatch.setattr(bundle.json, "dumps", dying(json.dumps))
    return made


@pytest.mark.parametrize("killed_before", [False, True])
def test_killed_at_any_point_leaves_the_old_or_the_new_bundle(tmp_path, monkeypatch, killed_before):
    seen, call, finished = set(), 0, False
    while not finished:
        call += 1
        path = tmp_path / str(call) / "model"
        write(path, 1)
        if killed_before:  # between the two renames
            os.rename(path, path.with_name(".model.old"))
        with monkeypatch.context() as patch:
            made = kill_at(patch, call)
            try:
                write(path, 2)
                finished = True
            except Killed:
                pass
        assert bundle_exists(path)
        seen.add((made[-1], read_number(path)))
        write(path, 3)
        assert read_number(path) == 3
        assert os.listdir(path.parent) == ["model"]
    assert call > 6
    assert {("save_file", 1), ("rename", 1), ("rmtree", 2)} <= seen


def test_killed_between_the_renames_then_read_then_written(tmp_path):
    path, stale = tmp_path / "model", tmp_path / ".model.old"
    write(path, 1)
    os.rename(path, stale)
    assert bundle_exists(path)
    assert read_number(path) == 1
    assert stale.is_dir(), "reading must not move files that another process may be writing"
    write(path, 2)
    assert read_number(path) == 2
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_killed_writes_are_ignored_and_cleared(tmp_path):
    path = tmp_path / "model"
    (tmp_path / ".model.new").mkdir()
    (tmp_path / ".model.new" / "weights.safetensors").write_bytes(b"half")
    assert not bundle_exists(path)
    with pytest.raises(CheckpointError, match="no toy model is saved here"):
        read_bundle(path, KIND)
    write(path, 1)
    write(tmp_path / ".model.old", 9)
    assert read_number(path) == 1
    write(path, 2)
    assert os.listdir(tmp_path) == ["model"]


def test_foreign_files_are_never_replaced(tmp_path):
    notes = tmp_path / "project" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("keep me")
    with pytest.raises(CheckpointError, match=r"project: holds files that no saved toy model"):
        write(notes.parent)
    with pytest.raises(CheckpointError, match=r"notes\.txt: holds files"):
        write(notes)
    assert notes.read_text() == "keep me"
    assert os.listdir(tmp_path) == ["project"]
    assert os.listdir(notes.parent) == ["notes.txt"]


def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    for number in (1, 2, 3):
        write(link, number)
        assert read_number(link) == number
    assert link.is_symlink()
    assert read_number(tmp_path / "disk") == 3


def test_relative_path_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write("model", 4)
    assert read_number("model") == 4


def edit_manifest(path, change):
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def flip_byte(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


DAMAGES = {
    "first byte of tensors": (lambda p: flip_byte(p / "weights.safetensors", 0), "weights"),
    "header of tensors": (lambda p: flip_byte(p / "weights.safetensors", 20), "weights"),
    "last byte of tensors": (lambda p: flip_byte(p / "weights.safetensors", -1), "weights"),
    "tensors cut short": (
        lambda p: os.truncate(p / "weights.safetensors", 50),
        r"weights\.safetensors: damaged",
    ),
    "tensors emptied": (
        lambda p: (p / "weights.safetensors").write_bytes(b""),
        r"weights\.safetensors: damaged",
    ),
    "tensors missing": (
        lambda p: (p / "weights.safetensors").unlink(),
        r"weights\.safetensors: missing",
    ),
    "manifest missing": (lambda p: (p / MANIFEST).unlink(), "manifest.json not found"),
    "manifest is not JSON": (
        lambda p: (p / MANIFEST).write_text("{"),
        r"manifest\.json: damaged",
    ),
    "manifest is not text": (
        lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe\x00"),
        r"manifest\.json: damaged",
    ),
    "manifest is a list": (
        lambda p: (p / MANIFEST).write_text("[1]"),
        r"manifest\.json: damaged",
    ),
    "manifest is empty": (lambda p: (p / MANIFEST).write_text("{}"), r"manifest\.json: damaged"),
    "meta edited": (
        lambda p: edit_manifest(p, lambda m: m["meta"].update(number=5)),
        r"manifest\.json: damaged \(its checksum",
    ),
    "kind edited": (
        lambda p: edit_manifest(p, lambda m: m.update(kind="other")),
        r"manifest\.json: damaged \(its checksum",
    ),
    "file list edited": (
        lambda p: edit_manifest(p, lambda m: m["files"].clear()),
        r"manifest\.json: damaged \(its checksum",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(tmp_path, damage):
    path = tmp_path / "model"
    write(path)
    change, message = DAMAGES[damage]
    change(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_bundle(path, KIND)
    assert str(path) in str(caught.value)


def test_wrong_kind_says_what_it_holds(tmp_path):
    write(tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds a toy model, not a diffusion model"):
        read_bundle(tmp_path / "model", "diffusion model")


def test_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "FORMAT", 99)
        write(tmp_path / "model")
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        read_bundle(tmp_path / "model", KIND)


def test_a_file_is_no_bundle(tmp_path):
    (tmp_path / "model").write_text("text")
    assert not bundle_exists(tmp_path / "model")
    with pytest.raises(CheckpointError, match="no toy model is saved here"):
        read_bundle(tmp_path / "model", KIND)


def test_a_manifest_that_is_nested_too_deeply(tmp_path):
    write(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).write_text('{"a":' * 3000)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged \(it is nested too deeply"):
        read_bundle(tmp_path / "model", KIND)


def reseal(path):
    """Checksums of the files as they are, as if they had been damaged before they were saved."""
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"] = {name: checksum(path / name) for name in manifest["files"]}
    manifest["checksum"] = bundle._manifest_checksum(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x01" + b"\0" * 7]
)
def test_tensors_that_were_damaged_before_they_were_saved(tmp_path, content):
    path = tmp_path / "model"
    write(path)
    (path / "weights.safetensors").write_bytes(content)
    reseal(path)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged before it was saved"):
        read_bundle(path, KIND)


def test_a_bundle_of_which_no_model_can_be_made(tmp_path):
    write_bundle(tmp_path / "model", ItemKNN.KIND, {}, {})
    with pytest.raises(CheckpointError, match=r"model: cannot be put together .* \(KeyError: '"):
        ItemKNN.load(tmp_path / "model")
