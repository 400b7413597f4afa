"""Preferences and recommendations by several processes, one of which is killed: the same bytes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.preferences.joined_rows import JoinedRows

ARRAYS = [f.name for f in dataclasses.fields(pf.Preferences) if f.type == "np.ndarray"]
CHOICES: dict[str, Any] = {"top_m": 5, "n_draws": 12, "seed": 3, "progress": False}
BLOCK, PART = 16, 40  # rounded up to 48 users: 5 parts

# Arguments: the model's folder, "recommend" or "preferences", where to, rank, world (0: none), and
# after how many parts the process hangs in the midst of the next.
WORKER = """
import pathlib, sys, time, torch
import pdrec_fast as pf
from pdrec_fast.preferences import parts as preferences_parts
from pdrec_fast.recommending import parts as recommending_parts

torch.set_num_threads(1)  # as in this test's own process: products of two differ in their last bit
model, what, out, rank, world, parts = sys.argv[1:]
rank, world = (int(rank), int(world)) if world != "0" else (None, None)
left = int(parts)

def hanging(module, name):
    real = getattr(module, name)
    def write(*arguments):
        global left
        left -= 1
        if left < 0:
            if what == "preferences":
                arguments[1].write_bytes(b"half of a part")
            time.sleep(600)
        return real(*arguments)
    setattr(module, name, write)

hanging(preferences_parts, "save_tensors")
hanging(recommending_parts, "_rows")
scorer = pf.DiffRec.load(model, device="cpu")
options = {"rank": rank, "world": world, "progress": False}
if what == "recommend":
    print(scorer.recommend_to_file(out, k=4, part_size=48, **options))
else:
    print(pf.Preferences.infer_parts(
        scorer, scorer.interactions(), out, top_m=5, n_draws=12, seed=3, block_size=16,
        part_size=40, **options))
"""


@pytest.fixture(scope="module")
def data() -> pf.Interactions:
    return pf.synthetic(n_users=230, n_items=120, seed=2)


@pytest.fixture(scope="module")
def model(data: pf.Interactions) -> pf.DiffRec:
    return pf.DiffRec(hidden=(6,), epochs=1, device="cpu").fit(data, progress=False)


@pytest.fixture(scope="module")
def saved(model: pf.DiffRec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "diffusion"
    model.save(place)
    return place


@pytest.fixture(scope="module")
def expected(model: pf.DiffRec, data: pf.Interactions) -> pf.Preferences:
    return pf.Preferences.infer(model, data, block_size=BLOCK, **CHOICES)


def worker(*arguments: object, parts: int = 99) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WORKER, *map(str, arguments), str(parts)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return text.strip()


def wait_until(n_parts: int, n_claims: int, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        parts, claims = (len(list(folder.glob(f"part-*{end}"))) for end in ("[!m]", ".claim"))
        if (parts, claims) == (n_parts, n_claims):
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder}: {sorted(file.name for file in folder.iterdir())}")


def check_the_same(found: pf.Preferences, expected: pf.Preferences) -> None:
    for name in ARRAYS:
        one, other = np.asarray(getattr(found, name)), getattr(expected, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes(), name
    assert found.fingerprint() == expected.fingerprint()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.mark.skipif(os.name == "nt", reason="on Windows a claim is taken over by its time alone")
@pytest.mark.parametrize("what", ["recommend", "preferences"])
def test_three_that_claim_one_of_them_killed(
    what: str, saved: Path, model: pf.DiffRec, expected: pf.Preferences, tmp_path: Path
) -> None:
    out = tmp_path / ("all.csv" if what == "recommend" else "parts")
    folder = tmp_path / ".all.csv.parts" if what == "recommend" else out
    slow = worker(saved, what, out, 0, 0, parts=1)
    wait_until(1, 1, folder)
    others = [worker(saved, what, out, 0, 0) for _ in range(2)]
    wait_until(4, 1, folder)
    kill(slow)
    assert [said(process) for process in others] == ["True", "True"]
    if what == "preferences":
        check_the_same(pf.Preferences.load(out), expected)
        assert len(list(out.iterdir())) == 1 + 5  # no claim and nothing half-written
        return
    assert list(tmp_path.iterdir()) == [out]
    model.recommend_to_file(tmp_path / "alone.csv", k=4, part_size=48, progress=False)
    assert out.read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="on Windows a claim is taken over by its time alone")
@pytest.mark.parametrize("what", ["recommend", "preferences"])
def test_two_ranks_one_of_them_killed_and_started_again(
    what: str, saved: Path, model: pf.DiffRec, expected: pf.Preferences, tmp_path: Path
) -> None:
    out = tmp_path / ("all.csv" if what == "recommend" else "parts")
    folder = tmp_path / ".all.csv.parts" if what == "recommend" else out
    slow = worker(saved, what, out, 1, 2, parts=1)
    assert said(worker(saved, what, out, 0, 2)) == "False"  # and does not wait
    wait_until(3 + 1, 1, folder)
    kill(slow)
    assert said(worker(saved, what, out, 1, 2)) == "True"
    if what == "preferences":
        check_the_same(pf.Preferences.load(out), expected)
        return
    model.recommend_to_file(tmp_path / "alone.csv", k=4, part_size=48, progress=False)
    assert out.read_bytes() == (tmp_path / "alone.csv").read_bytes()


def infer_parts(model: pf.DiffRec, data: pf.Interactions, out: Path, **changes: Any) -> bool:
    options = CHOICES | {"block_size": BLOCK, "part_size": PART} | changes
    return pf.Preferences.infer_parts(model, data, out, **options)


def test_preferences_in_parts_are_those_in_one_piece(
    model: pf.DiffRec, data: pf.Interactions, expected: pf.Preferences, tmp_path: Path
) -> None:
    """Parts of any size, and products whose blocks end elsewhere than the parts asked for."""
    for size in (1, 100, 1 << 16):
        assert infer_parts(model, data, tmp_path / f"{size}", part_size=size)
        check_the_same(pf.Preferences.load(tmp_path / f"{size}"), expected)
    opened = pf.Preferences.open(tmp_path / "100")
    assert all(isinstance(getattr(opened, name), JoinedRows) for name in ARRAYS[1:])
    check_the_same(opened, expected)
    opened.save(tmp_path / "saved")
    for read in (pf.Preferences.open, pf.Preferences.load):
        check_the_same(read(tmp_path / "saved"), expected)


def test_preferences_that_are_opened_guide_as_those_loaded(
    model: pf.DiffRec, data: pf.Interactions, expected: pf.Preferences, tmp_path: Path
) -> None:
    infer_parts(model, data, tmp_path / "parts")
    settings: dict[str, Any] = {"modules": ("hbr", "dpa", "nns"), "max_length": 6}
    one, other = (
        pf.Guidance(data, preferences, **settings)
        for preferences in (expected, pf.Preferences.open(tmp_path / "parts"))
    )
    assert one.token_weights is not None
    np.testing.assert_array_equal(one.token_weights, other.token_weights)
    np.testing.assert_array_equal(one.token_negatives(2), other.token_negatives(2))
    users = np.array([0, 229, 47, 48])
    assert one.soft_positives(users).tolist() == other.soft_positives(users).tolist()


def test_preferences_of_vectors_in_parts(
    model: pf.DiffRec, data: pf.Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("inference", "preferences"):  # as on a GPU
        monkeypatch.setattr(f"pdrec_fast.preferences.{module}.uses_vectors", lambda _: True)
    whole = pf.Preferences.infer(model, data, block_size=BLOCK, **CHOICES)
    infer_parts(model, data, tmp_path / "parts")
    check_the_same(pf.Preferences.load(tmp_path / "parts"), whole)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 4}, r"other seed \(3 there, 4 here\)"),
        ({"top_m": 6, "part_size": 99}, r"other top_m \(5 .*part_size \(48 there, 112 here\)"),
    ],
)
def test_parts_of_other_preferences_are_refused(
    changes: dict[str, Any],
    text: str,
    model: pf.DiffRec,
    data: pf.Interactions,
    tmp_path: Path,
) -> None:
    infer_parts(model, data, tmp_path / "parts", rank=0, world=2)
    with pytest.raises(pf.CheckpointError, match=text):
        infer_parts(model, data, tmp_path / "parts", **changes)
    other = pf.DiffRec(hidden=(6,), epochs=1, seed=9, device="cpu").fit(data, progress=False)
    with pytest.raises(pf.CheckpointError, match=r"parts: .*other scorer.*delete the folder"):
        infer_parts(other, data, tmp_path / "parts")


def test_what_cannot_be_read_is_named(
    model: pf.DiffRec, data: pf.Interactions, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    infer_parts(model, data, out)
    part = out / "part-000002.safetensors"
    sound = part.read_bytes()
    changed = bytearray(sound)
    changed[-3] ^= 1
    for damaged in (bytes(changed), sound[:-9], b""):
        part.write_bytes(damaged)
        with pytest.raises(pf.CheckpointError, match=r"part-000002.*damaged; delete it, and give"):
            pf.Preferences.load(out)
    part.unlink()
    for read in (pf.Preferences.load, pf.Preferences.open):
        with pytest.raises(pf.CheckpointError, match="parts: 4 of 5 parts are there"):
            read(out)
    infer_parts(model, data, out)
    assert part.read_bytes() == sound
    (out / "job.json").write_text('{"kind": "cookery"}')
    with pytest.raises(pf.CheckpointError, match="holds no preferences"):
        pf.Preferences.load(out)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"part_size": 0}, "part_size must be at least 1, got 0"),
        ({"rank": 2, "world": 2}, "got rank=2, world=2"),
        ({"rank": 0}, "got rank=0, world=None"),
        ({"omega_m": 1.0}, r"omega_m.*1\.0"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(
    changes: dict[str, Any], text: str, model: pf.DiffRec, data: pf.Interactions, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=text):
        infer_parts(model, data, tmp_path / "parts", **changes)
    assert list(tmp_path.iterdir()) == []
    if "omega_m" not in changes:
        with pytest.raises(ValueError, match=text):
            model.recommend_to_file(tmp_path / "all.csv", progress=False, **changes)
        assert list(tmp_path.iterdir()) == []


def test_a_rank_without_parts_begins_nothing(model: pf.DiffRec, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    assert not model.recommend_to_file(out, part_size=100, rank=3, world=4, progress=False)
    assert list(tmp_path.iterdir()) == []
