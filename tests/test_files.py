"""What cannot be written ends in one line, and leaves what was there."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from pdrec_fast.errors import CheckpointError, WriteError
from pdrec_fast.files import make_directory, replacing, write_json, write_text
from pdrec_fast.fitting import bundle
from pdrec_fast.fitting.bundle import bundle_exists, read_bundle, write_bundle

TENSORS = {"weights": {"w": torch.arange(50)}}


def save(path: Path) -> None:
    write_bundle(path, "model", {}, TENSORS)


def save_text(path: Path) -> None:
    write_text(path, "text")


def one_line(error: pytest.ExceptionInfo[WriteError], path: Path) -> str:
    text = str(error.value)
    assert text.startswith(f"{path}: cannot be written: ")
    assert "\n" not in text
    assert "Errno" not in text
    return text


@pytest.mark.parametrize("write", [save, save_text, make_directory])
def test_a_place_that_is_none_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError) as error:
        write(tmp_path / "file" / "below" / "x")
    one_line(error, tmp_path / "file" / "below" / "x")
    with pytest.raises(WriteError) as error:
        write(tmp_path / ("n" * 300))
    assert "shorter" in one_line(error, tmp_path / ("n" * 300))
    assert error.value.errno == errno.ENAMETOOLONG
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_text_that_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    before = (tmp_path / "a.json").read_text()
    with pytest.raises(WriteError) as error, replacing(tmp_path / "a.json"):
        Path("/dev/full").write_text("more")
    assert "no space" in one_line(error, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == before


def test_half_of_a_text_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "a" * 100_000 + "\udc00")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_full_disk_leaves_the_bundle_that_was_there(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    save(path)

    def fail(tensors: dict[str, torch.Tensor], file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        text = f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
        raise SafetensorError(text)

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "save_file", fail)
        for place in (path, tmp_path / "another"):
            with pytest.raises(WriteError) as error:
                save(place)
            one_line(error, place)
            assert error.value.errno == number
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert torch.equal(read_bundle(path, "model")[1]["weights"]["w"], TENSORS["weights"]["w"])


def test_a_bundle_that_was_moved_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "model", os.rename
    save(path)

    def fail(old: Path, new: Path) -> None:
        if Path(old).name == ".model.new":
            raise OSError(errno.EACCES, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(WriteError, match="no permission"):
        save(path)
    assert bundle_exists(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_other_faults_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="will not be replaced"):
        save(tmp_path)


_LIMITED = """
import resource, sys
from pdrec_fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = sys.argv[2:]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes on Windows")
def test_a_run_that_finds_no_room_continues_by_the_same_command(tmp_path: Path) -> None:
    rows = [f"{u},{i},{u + i}" for u in range(12) for i in range(u, u + 6)]
    data, out = tmp_path / "data.csv", tmp_path / "run"
    data.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    small = ["--set", "pdrec.epochs=1", "--set", "diffusion.epochs=1", "--quiet"]
    command = ["run", "--data", str(data), "--out", str(out), "--modules", "hbr", *small]

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", _LIMITED, str(limit), *command]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    refused = run(50_000)
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(
        f"error: {out / 'diffusion.checkpoint'}: cannot be written: a file would"
    )
    assert "Traceback" not in refused.stderr
    assert sorted(file.name for file in out.iterdir()) == [".lock", "run.json"]
    finished = run(1 << 30)
    assert finished.returncode == 0, finished.stderr
    assert (out / "metrics.json").exists()
