"""Folders that vanish, fill, or belong to others while a run writes there: one line, nothing lost,
and the same call goes on when the world is well again."""

import ast
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.files import whole_directory, writing
from pdrec_fast.fitting.bundle import MANIFEST, read_bundle, write_bundle
from pdrec_fast.sole_user import LOCK, sole_user

DATA = pf.synthetic(n_users=40, n_items=150, seed=0)
SETTINGS = {
    "diffusion.epochs": 1,
    "diffusion.hidden": 8,
    "pdrec.epochs": 3,
    "encoder.width": 16,
    "n_draws": 8,
    "top_m": 5,
}
CONFIG = pf.with_settings(pf.RunConfig.from_preset("default", modules=("hbr",)), SETTINGS)
Act = Callable[[], object]


def run(out: Path, act: Act | None = None) -> str:
    """The fingerprint of what a run ends with; ``act`` is called in the midst of the encoder's
    training, after its first checkpoint."""

    class Acting(pf.Callback):
        def on_epoch_end(self, name: str, history: Any) -> None:
            if act is not None and name.startswith("sasrec") and history.epochs == 2:
                act()

    result = pf.run(DATA, CONFIG, out=out, device="cpu", progress=False, callbacks=[Acting()])
    assert result.model is not None
    return result.model.fingerprint()


@pytest.fixture(scope="module")
def expected() -> str:
    result = pf.run(DATA, CONFIG, device="cpu", progress=False)
    assert result.model is not None
    return result.model.fingerprint()


def refused(out: Path, act: Act) -> str:
    with pytest.raises(pf.WriteError) as error:
        run(out, act)
    text = str(error.value)
    assert text.startswith(f"{out}")
    assert text.isprintable()
    assert "Errno" not in text
    return text


def mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting takes the rights of root: {done.stderr.strip()}")


def unmount(place: Path) -> bool:
    """Whether something was mounted there. Only lately does Python see a bind of the same disk."""
    return not subprocess.run(["umount", "-l", str(place)], capture_output=True).returncode


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """A folder to mount on, which is unmounted at the end."""
    place = tmp_path / "mounted"
    place.mkdir()
    yield place
    while os.geteuid() == 0 and unmount(place):
        pass


def test_a_folder_that_is_moved_away(expected: str, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    text = refused(out, lambda: out.rename(elsewhere))
    assert "its folder is gone; once it is back, do the same again" in text
    assert not out.exists()
    elsewhere.rename(out)
    assert (out / "model.checkpoint").is_dir()
    assert run(out) == expected


def test_another_folder_in_its_place(expected: str, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def exchange() -> None:
        out.rename(elsewhere)
        out.mkdir()

    assert "its folder is gone" in refused(out, exchange)
    assert not list(out.iterdir())
    out.rmdir()
    elsewhere.rename(out)
    assert run(out) == expected


@pytest.mark.parametrize("below", ["", "run"])
def test_a_mount_that_vanishes(below: str, mounted: Path, expected: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("--bind", disk, mounted)
    out = mounted / below
    assert "its folder is gone" in refused(out, lambda: unmount(mounted))
    assert not list(mounted.iterdir())  # nothing on the disk beneath, which the mount would hide
    mount("--bind", disk, mounted)
    assert run(out) == expected


def test_a_disk_that_is_full(mounted: Path, expected: str) -> None:
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", mounted)
    out, filler = mounted / "run", mounted / "filler"

    def fill() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(1 << 12))

    assert "no space is left there" in refused(out, fill)
    assert not (out / "model").exists()
    filler.unlink()
    assert run(out) == expected


def test_a_disk_that_is_read_only(mounted: Path, tmp_path: Path) -> None:
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", mounted)
    with pytest.raises(pf.WriteError, match="read-only; make it writable, or choose another"):
        run(mounted / "run")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_permission_that_is_lost(expected: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    root = os.geteuid() == 0
    # Permissions do not bind root, who can become nobody instead.
    lose = (lambda: os.seteuid(65534)) if root else (lambda: out.chmod(0o500))
    try:
        text = refused(out, lose)
    finally:
        os.seteuid(0) if root else out.chmod(0o700)
    assert "there is no permission to write there; allow it, or choose another place" in text
    assert run(out) == expected


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_disk_that_does_not_answer(number: int, tmp_path: Path) -> None:
    with pytest.raises(pf.WriteError) as error, writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert "does not answer; once it is back, do the same again" in str(error.value)


_HOLD = """
import sys, time
from pathlib import Path
from pdrec_fast.sole_user import sole_user
with sole_user(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_on_one_run(
    tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / LOCK).write_text("of a process that was killed long ago")
    words = [sys.executable, "-c", _HOLD, str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(pf.CheckpointError) as error:
                run(out)
            assert [file.name for file in out.iterdir()] == [LOCK]
        finally:
            other.kill()
    assert str(error.value).startswith(
        f"{out}: another process is at work on this run; wait until it has ended, or use another"
    )
    assert run(out) == expected
    with sole_user(out, "run"), pytest.raises(pf.CheckpointError, match="another process"):
        run(out)
    monkeypatch.setattr(sys, "argv", ["pdrec-fast", "run", "--data", str(tmp_path / "a\nb.csv")])
    sys.argv += ["--out", str(tmp_path / "other")]
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(r"a\nb.csv: no such file")


@pytest.mark.parametrize(
    ("command", "first", "last"),
    [
        (lambda: bytearray(1 << 62), "error: out of memory", "which settings take less"),
        (lambda: "\xe9".encode("ascii"), "error: 'ascii' codec", "write to a file with --out"),
    ],
)
def test_no_memory_and_no_letters_are_one_line(
    command: Any,
    first: str,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More than there is, and ids that the terminal's encoding does not have."""
    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(first)
    assert line.endswith(last)


@pytest.mark.parametrize("what", ["recommend", "preferences"])
def test_a_folder_of_parts_that_vanishes(what: str, tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    place.mkdir()
    model = pf.DiffRec(hidden=(6,), epochs=1, device="cpu").fit(DATA, progress=False)

    class Vanishing(pf.DiffRec):
        def scores(self, histories: Any, items: Any = None) -> torch.Tensor:
            if place.exists() and 20 in histories.users:
                place.rename(elsewhere)
            return super().scores(histories, items)

    def job(scorer: pf.DiffRec) -> bool:
        if what == "recommend":
            return scorer.recommend_to_file(place / "all.csv", k=3, part_size=16, progress=False)
        options: dict[str, Any] = {"top_m": 3, "n_draws": 4, "progress": False}
        return pf.Preferences.infer_parts(
            scorer, DATA, place / "parts", part_size=16, block_size=16, **options
        )

    vanishing = Vanishing(model.config, device="cpu")
    vars(vanishing).update(vars(model))
    vanishing._chain = None
    with pytest.raises(pf.WriteError, match="its folder is gone; once it is back, do the same"):
        job(vanishing)
    assert not place.exists()
    elsewhere.rename(place)
    for claim in place.rglob("*.claim"):  # of a process that has ended, as a new one would see
        claim.unlink()
    assert job(model)


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks on Windows")
def test_two_that_save_to_one_place(tmp_path: Path) -> None:
    path, tensors = tmp_path / "model", {"weights": {"w": torch.arange(3)}}
    with whole_directory(path, "model", MANIFEST, lambda _: True) as fresh:
        (fresh / MANIFEST).write_text("{}")
        with pytest.raises(pf.CheckpointError, match="model: another process is writing it; wait"):
            write_bundle(path, "model", {}, tensors)
    assert (path / MANIFEST).read_text() == "{}"
    (tmp_path / ".model.new").mkdir()  # of a process that was killed
    write_bundle(path, "model", {}, tensors)
    assert torch.equal(read_bundle(path, "model")[1]["weights"]["w"], torch.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize(
    "name", ["a b", "ü ☃", "a\nb", "'\"$(x)", "n" * 255, b"\xff\xfe"], ids=repr
)
def test_names_of_folders(name: str | bytes, expected: str, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(name)
    try:
        out.mkdir()
        out.rmdir()
    except OSError as error:
        pytest.skip(f"not a name here: {error}")
    assert run(out) == expected
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


def test_links_to_folders(expected: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    assert run(tmp_path / "run") == expected
    assert (tmp_path / "disk" / "metrics.json").exists()
    assert (tmp_path / "run").is_symlink()
    (tmp_path / "nowhere").symlink_to("gone")
    with pytest.raises(pf.WriteError, match=r"nowhere: cannot be written: .*choose another place"):
        run(tmp_path / "nowhere")


def test_a_clock_that_goes_backwards(
    expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fall = count(1_700_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(fall)))
    monkeypatch.setattr(time, "time_ns", lambda: next(fall) * 10**9)
    result = pf.run(DATA, CONFIG, out=tmp_path / "run", device="cpu", progress=False)
    assert result.model is not None
    assert result.model.fingerprint() == expected
    assert all(seconds >= 0 for seconds in result.metrics["seconds"].values())
    assert result.model.history is not None
    assert result.model.history.elapsed == sorted(result.model.history.elapsed)


def test_durations_are_of_a_clock_that_only_goes_forward() -> None:
    """The wall clock is for dates alone."""
    package = Path(pf.__file__).parent
    dates = {"studies/study.py"}
    wall = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in wall:
                    found.add(file.relative_to(package).as_posix())
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns"}, file
    assert found == dates
