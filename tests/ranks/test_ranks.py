"""Trainings over processes are those of one process, whatever the mesh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.ranks import ALONE, Axis, mesh_sizes
from tests.ranks.processes import WORKER, finished, start

MESHES = [(2, 1), (1, 2), (2, 2)]


def trained(users: int, items: int, folder: Path) -> dict:
    out = folder / f"{users}-{items}.pt"
    words = [WORKER, "trainings", str(users), str(items), str(out)]
    for status, output, errors in finished(start(users * items, words)):
        assert status == 0, output + errors
    found: dict = torch.load(out, weights_only=False)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict:
    return trained(1, 1, folder)


@pytest.fixture(scope="module", params=MESHES, ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
def together(request: pytest.FixtureRequest, folder: Path) -> dict:
    return trained(*request.param, folder)


def test_losses_figures_and_weights_are_those_of_one_process(alone: dict, together: dict):
    for name, expected in alone.items():
        if not isinstance(expected, tuple):
            continue
        (curves, weights), (theirs, their_weights) = expected, together[name]
        assert theirs["losses"] == pytest.approx(curves["losses"], rel=1e-5), name
        figures = list(curves["validations"].values())
        # Two scores that differ in their last bits may change places.
        assert list(theirs["validations"].values()) == pytest.approx(figures, abs=2e-3), name
        assert weights.keys() == their_weights.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(their_weights[key], weight, rtol=1e-5, atol=2e-6, msg=name)


def test_what_one_model_prefers_and_ranks_is_the_same_to_the_last_bit(alone: dict, together: dict):
    for name, expected in alone["preferences"].items():
        found = together["preferences"][name]
        assert (found == expected) if isinstance(found, str) else (found == expected).all(), name
    assert together["evaluation"] == alone["evaluation"]


def test_figures_of_a_model_that_was_trained_together_hardly_differ(alone: dict, together: dict):
    for protocol, by_split in alone["diffusion, evaluation"].items():
        for on, figures in by_split.items():
            found = together["diffusion, evaluation"][protocol][on]
            assert found == pytest.approx(figures, abs=2e-3)
    weights = {name: share["weight"] for name, share in alone["shares"].items()}
    found = {name: share["weight"] for name, share in together["shares"].items()}
    assert found == pytest.approx(weights, rel=1e-4)


def test_a_process_that_is_killed_ends_the_run_which_continues_on_another_mesh(folder: Path):
    (whole,) = finished(start(1, [WORKER, "run", "1", "1", str(folder / "whole")]))
    out = folder / "run"
    first, last = finished(start(2, [WORKER, "dying run", "1", "2", str(out)]))
    assert last[0] == -9
    assert first[0] == 0
    assert first[1].startswith("lost: another process of this job ended"), first
    assert not list(out.glob("**/*.new"))
    assert (out / "model.checkpoint").is_dir()
    ends = finished(start(4, [WORKER, "run", "2", "2", str(out)]))
    assert [status for status, _, _ in ends] == [0] * 4, ends
    assert [output for _, output, _ in ends[1:]] == [""] * 3  # the first one alone prints
    found, expected = json.loads(ends[0][1]), json.loads(whole[1])
    for on in ("valid", "test"):
        assert found["full"][on] == pytest.approx(expected["full"][on], abs=0.01)
    model = pf.PDRec.load(out / "model")
    assert model.history is not None
    assert model.history.epochs == 4


def test_what_fails_on_one_process_ends_the_training_of_all_and_another_can_follow(folder: Path):
    ends = finished(start(2, [WORKER, "failures", "2", "1", str(folder)]))
    assert [status for status, _, _ in ends] == [0, 0], ends
    (first, *alike), (second, *alike_there) = (json.loads(output) for _, output, _ in ends)
    assert first == "ValueError: after 1"
    assert second == "RankLostError: the first process failed; its error says why"
    assert alike == alike_there
    assert alike[0].startswith("DataError: the processes of this job have different data or setti")
    assert alike[1] == "fitted"


def test_the_command_runs_over_processes(tmp_path: Path):
    file, out = tmp_path / "data.csv", tmp_path / "run"
    data = pf.synthetic(n_users=60, n_items=150, seed=0)
    rows = [
        f"{u},{i},{t:.0f}"
        for u, i, t in zip(
            data.user_ids[data.record_users],
            data.item_ids[data.items],
            data.timestamps,
            strict=True,
        )
    ]
    file.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    words = ["-m", "pdrec_fast", "run", "--data", str(file), "--out", str(out), "--device", "cpu"]
    words += ["--quiet", "--mesh", "users=1,items=2", "--modules", "hbr,nns"]
    for name, value in {
        "diffusion.epochs": 1,
        "diffusion.hidden": 8,
        "pdrec.epochs": 1,
        "n_draws": 8,
        "encoder.width": 8,
    }.items():
        words += ["--set", f"{name}={value}"]
    first, second = finished(start(2, words))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "written to" in first[1]
    assert second[1] == ""
    assert json.loads((out / "metrics.json").read_text())["environment"]["processes"] == 2
    wrong = finished(start(2, [*words[:-1], "encoder.width=9", "--mesh", "users=3"]))
    assert [status for status, _, _ in wrong] == [1, 1]
    assert "a mesh of 3 x 1" in wrong[0][2]


def test_shares_are_even_and_whole():
    for size in (1, 2, 3, 5):
        for n in (0, 1, 4, 7, 64, 203):
            for multiple in (1, 4):
                shares = [Axis(rank, size).share(n, multiple) for rank in range(size)]
                assert shares == Axis(0, size).shares(n, multiple)
                assert [each.start for each in shares[1:]] == [each.stop for each in shares[:-1]]
                assert (shares[0].start, shares[-1].stop) == (0, n)
                lengths = [each.stop - each.start for each in shares]
                assert max(lengths) - min(lengths) <= 2 * multiple - 1
                assert all(each.start % multiple == 0 for each in shares if each.start < n)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("users=4", (4, 1)), ("items=2", (None, 2)), (" items=2 , users=3", (3, 2))],
)
def test_sizes_of_a_mesh_are_read(text: str, expected: tuple):
    assert mesh_sizes(text) == expected


@pytest.mark.parametrize("text", ["", "users", "users=0", "users=2,users=3", "rows=2", "users=2;"])
def test_other_sizes_are_refused(text: str):
    with pytest.raises(ValueError, match=r"--mesh .*write it as users=4,items=2"):
        mesh_sizes(text)


def test_a_mesh_needs_its_processes():
    with pytest.raises(ValueError, match="needs 6 processes, and there are 1: start them with"):
        pf.Mesh(3, 2)
    mesh = pf.Mesh()
    assert (mesh.users.size, mesh.items.size, mesh.is_first) == (1, 1, True)
    assert repr(mesh) == "Mesh(users=1, items=1)"
    assert mesh.agreed(3) == 3
    assert mesh.any(True)
    with pytest.raises(ZeroDivisionError):
        ALONE.once(lambda: 1 / 0)


def test_what_is_no_sum_over_items_is_refused_over_shares_of_them():
    split = pf.leave_one_out(pf.synthetic(n_users=30, n_items=40, seed=0))
    mesh = pf.Mesh()
    mesh.items = Axis(0, 2)
    for settings in ({"sampling_noise": True}, {"prediction": "eps"}, {"hidden": (8, 8)}):
        name = next(iter(settings))
        with pytest.raises(ValueError, match=f"{name}=.* choose a mesh with items=1"):
            pf.DiffRec(**{"hidden": (8,), "epochs": 1, **settings}).fit(split, mesh=mesh)
