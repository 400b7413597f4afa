"""The same benchmarks against two versions of the package, in alternating processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pdrec_fast as pf
from bench.data import data_folder
from bench.registry import OPERATIONS, check_names
from bench.report import describe_sizes, ratio, read, seconds, table, timed_rows
from bench.runner import Settings, summarize

HARNESS = Path(__file__).resolve().parent
BASE, HEAD = "base", "head"
_HEADER = ("operation", "implementation", "base", "iqr", "head", "iqr", "head / base", "by round")


def compare(
    base: str, only: Iterable[str], settings: Settings, rounds: int, own_harness: bool = False
) -> tuple[str, bool]:
    """Time what the package of revision ``base`` and the one imported here do.

    Args:
        base: any git revision of this repository.
        only: operations; none means all.
        rounds: processes per version; which comes first alternates.
        own_harness: measure ``base`` by the harness of its own revision, as this one's imports
            modules of the package that may have moved since.

    Returns:
        a table, and whether every operation ran in the version imported here.
    """
    names = list(only) or list(OPERATIONS)
    check_names(names)
    head = Path(pf.__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="pdrec-compare-") as folder:
        work = Path(folder)
        # A copy, as either tree may hold a harness of its own.
        shutil.copytree(
            HARNESS, work / "harness" / "bench", ignore=shutil.ignore_patterns("results")
        )
        with checked_out(HARNESS.parent, base, work / BASE) as tree:
            trees = {BASE: tree, HEAD: head}
            documents: dict[str, list[dict[str, Any]]] = {BASE: [], HEAD: []}
            for number in range(rounds):
                for version in (BASE, HEAD) if number % 2 == 0 else (HEAD, BASE):
                    print(f"round {number + 1}/{rounds}: {version}", file=sys.stderr, flush=True)
                    harness = tree if own_harness and version == BASE else work / "harness"
                    documents[version].append(
                        _run_in(trees[version], harness, work / "results.json", names, settings)
                    )
    return comparison(documents), not any(d["failures"] for d in documents[HEAD])


@contextmanager
def checked_out(repository: Path, revision: str, target: Path) -> Iterator[Path]:
    """A work tree of ``revision`` at ``target`` with its extension built, removed at the end.

    Raises:
        ValueError: git knows no such revision.
    """
    git = ["git", "-C", str(repository)]
    add = [*git, "worktree", "add", "--detach", "--quiet", str(target), revision]
    done = subprocess.run(add, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"cannot check out --base {revision!r}: {done.stderr.strip()}")
    try:
        build_in_place(target)
        yield target
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(target)], check=True)


def comparison(documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Table of both versions' medians over all their samples, and their ratio in each round.

    Args:
        documents: ``BASE`` and ``HEAD`` -> the document of every round.
    """
    base, head = (_by_operation(documents[version]) for version in (BASE, HEAD))
    lines, notes = [], []
    for name, rounds in head.items():
        after = summarize([s for row in rounds for s in row["samples"]])
        cells = [name, rounds[0]["impl"]]
        if name not in base:
            cells += ["-", "-", seconds(after["median"]), seconds(after["iqr"]), "new", "-"]
            notes.append(f"{name}: base has it not ({_reason(documents[BASE], name)})")
        else:
            before = summarize([s for row in base[name] for s in row["samples"]])
            ratios = [b["median"] / a["median"] for a, b in zip(base[name], rounds, strict=False)]
            cells += [seconds(before["median"]), seconds(before["iqr"])]
            cells += [seconds(after["median"]), seconds(after["iqr"])]
            cells += [
                ratio(after["median"] / before["median"]),
                f"{min(ratios):.3g} .. {max(ratios):.3g}",
            ]
            notes.append(f"{name}: {describe_sizes(rounds[0]['sizes'])}")
        lines.append(cells)
    failed = {name: why for d in documents[HEAD] for name, why in d["failures"].items()}
    notes += [f"FAILED {name}: {why}" for name, why in failed.items()]
    return "\n\n".join(part for part in (table(_HEADER, lines), "\n".join(notes)) if part)


def _by_operation(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        for row in timed_rows(document):
            rows.setdefault(row["op"], []).append(row)
    return rows


def _reason(documents: Sequence[Mapping[str, Any]], name: str) -> str:
    for document in documents:
        if name in document["failures"]:
            return str(document["failures"][name]).partition("\n")[0]
        for entry in document["unavailable"]:
            if entry["op"] == name:
                return str(entry["reason"]).partition("\n")[0]
    return "no rows"


def build_in_place(tree: Path) -> None:
    """Build the extension in place, and give ``pdrec_fast.kernels`` its place in a source tree."""
    kernels = tree / "pdrec_fast" / "kernels"
    if (tree / "kernels").is_dir() and not kernels.exists():
        kernels.symlink_to(Path("..") / "kernels")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed in {tree}:\n{done.stdout}{done.stderr}")


def _run_in(
    tree: Path, harness: Path, results: Path, names: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """The document of one process that imports the package from ``tree``, ``bench`` from
    ``harness``."""
    environment = _environment() | {
        "PYTHONPATH": str(tree),
        "PDREC_DATA": str(data_folder().resolve()),
    }
    where = [sys.executable, "-c", "import pdrec_fast; print(pdrec_fast.__file__)"]
    found = subprocess.check_output(where, cwd=harness, env=environment, text=True).strip()
    if Path(found).resolve().parents[1] != tree.resolve():
        raise RuntimeError(f"would measure {found}, not the package in {tree}")
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench", "run", "--ours", "--json", str(results)]
    command += ["--threads", str(settings.threads), "--seconds", str(settings.seconds)]
    # Its exit status says that some operation failed; the document says which and why.
    subprocess.run(
        [*command, "--only", *names], cwd=harness, env=environment, stdout=subprocess.DEVNULL
    )
    return read(results)


def _environment() -> dict[str, str]:
    """This process's, with the tools installed beside the interpreter on the path."""
    tools = Path(sys.executable).parent
    return os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
