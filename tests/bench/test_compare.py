"""Comparing two revisions: the table, and the work tree of the base."""

import subprocess
from pathlib import Path

import pytest

from bench import compare

SETUP = """
import pathlib
pathlib.Path("pdrec_fast", "built").touch()
"""


def version_of(*medians, op="op", failures=()):
    rows = [
        {"op": op, "impl": "ours", "sizes": {"n": 1}, "median": m, "samples": [m, m]}
        for m in medians
    ]
    return [{"rows": [row], "failures": dict(failures), "unavailable": []} for row in rows]


def test_comparison_by_hand():
    text = compare.comparison(
        {compare.BASE: version_of(1.0, 3.0), compare.HEAD: version_of(1.0, 1.5)}
    )
    cells = text.splitlines()[1].split("  ")
    # Medians over the samples 1 1 3 3 and 1 1 1.5 1.5; the rounds' own ratios are 1 and 0.5.
    assert [cell.strip() for cell in cells if cell][2:] == [
        "2 s",
        "2 s",
        "1.25 s",
        "500 ms",
        "0.625x",
        "0.5 .. 1",
    ]


def test_comparison_with_an_operation_that_base_lacks():
    lacking = [{"rows": [], "failures": {"op": "ImportError: no such op"}, "unavailable": []}]
    text = compare.comparison({compare.BASE: lacking, compare.HEAD: version_of(1.0)})
    assert "new" in text.splitlines()[1]
    assert "op: base has it not (ImportError: no such op)" in text


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit that "builds" and holds kernels."""
    root = tmp_path / "repository"
    for name, text in {"setup.py": SETUP, "pdrec_fast/x.py": "", "kernels/k.py": "K = 1"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    author = "-c", "user.name=a", "-c", "user.email=a@b"
    git(root, *author, "commit", "--quiet", "--message", "first")
    return root


def git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_base_is_checked_out_built_and_removed(repository, tmp_path):
    target = tmp_path / "base"
    with compare.checked_out(repository, "HEAD", target) as tree:
        assert tree == target
        assert (tree / "pdrec_fast" / "built").exists()
        assert (tree / "pdrec_fast" / "kernels" / "k.py").read_text() == "K = 1"
        assert not Path(repository / "pdrec_fast" / "built").exists()
    assert not target.exists()
    assert git(repository, "worktree", "list").count("\n") == 1


def test_base_is_removed_after_an_error(repository, tmp_path):
    target = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt), compare.checked_out(repository, "HEAD", target):
        raise KeyboardInterrupt
    assert not target.exists()
    (repository / "setup.py").write_text("raise SystemExit('no compiler')")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "second")
    with (
        pytest.raises(RuntimeError, match="no compiler"),
        compare.checked_out(repository, "HEAD", target),
    ):
        pass
    assert not target.exists()


def test_unknown_revision(repository, tmp_path):
    with (
        pytest.raises(ValueError, match="cannot check out --base 'nowhere'"),
        compare.checked_out(repository, "nowhere", tmp_path / "base"),
    ):
        pass
