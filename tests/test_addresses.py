"""One address for every operation: the same ``<family>/<op>`` wherever a part of it lies."""

import ast
from pathlib import Path

import pytest

from pdrec_fast.build_info import extension, extension_problem
from tests.kernels.hopper import LAUNCHES

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = sorted(path.name for path in (ROOT / "pdrec_fast/ops").iterdir() if path.is_dir())
FAMILIES = [name for name in FAMILIES if not name.startswith("_")]
EVERY_OP_HAS = (
    "pdrec_fast/reference/{family}/{op}.py",
    "tests/ops/{family}/test_{op}.py",
    "bench/ops/{family}/{op}.py",
)
# Folder -> (the implementation that an op offers where it has a file there, the file's name).
OFFERED = {
    "kernels/triton": ("triton", "{op}.py"),
    "tests/kernels": ("triton", "test_{op}.py"),
    "kernels/numba": ("numba", "{op}.py"),
    "csrc": ("cpp", "{op}.cpp"),
}


def modules(folder):
    """Names of a folder's modules, but for helpers (a leading underscore) and configuration."""
    files = [*folder.glob("*.py"), *folder.glob("*.cpp")]
    stems = {file.stem for file in files if file.stem != "conftest"}
    return {stem for stem in stems if not stem.startswith("_")}


OPS = [(family, op) for family in FAMILIES for op in modules(ROOT / "pdrec_fast/ops" / family)]


def functions(file):
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def strings(file):
    """What a module says as a string, but for its docstrings."""
    tree = ast.parse(file.read_text())
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def offers(family, op):
    """Implementations that the op names, in its file or in the helpers of its family it imports."""
    file = ROOT / f"pdrec_fast/ops/{family}/{op}.py"
    imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
    prefix = f"pdrec_fast.ops.{family}._"
    helpers = [node.module for node in imports if node.module and node.module.startswith(prefix)]
    files = [file, *(ROOT / f"{name.replace('.', '/')}.py" for name in helpers)]
    return set().union(*map(strings, files))


@pytest.mark.parametrize(("family", "op"), sorted(OPS))
def test_an_op_has_its_twins(family, op):
    assert op in functions(ROOT / f"pdrec_fast/ops/{family}/{op}.py")
    for pattern in EVERY_OP_HAS:
        file = ROOT / pattern.format(family=family, op=op)
        assert file.is_file(), f"{file.relative_to(ROOT)} is missing"
    assert op in functions(ROOT / f"pdrec_fast/reference/{family}/{op}.py")
    bench = ROOT / f"bench/ops/{family}/{op}.py"
    assert op in strings(bench), f"{bench.relative_to(ROOT)} registers no {op!r}"


@pytest.mark.parametrize(("family", "op"), sorted(OPS))
def test_an_op_has_a_kernel_where_it_offers_one(family, op):
    offered = offers(family, op)
    for folder, (impl, name) in OFFERED.items():
        file = ROOT / folder / family / name.format(op=op)
        assert file.is_file() == (impl in offered), (
            f"impl={impl!r} is {'offered' if impl in offered else 'not offered'}, and "
            f"{file.relative_to(ROOT)} {'exists' if file.is_file() else 'is missing'}"
        )


@pytest.mark.parametrize(("family", "op"), sorted(OPS))
def test_a_kernel_is_reached(family, op):
    """What a file alone does not show: the extension has it, and Hopper's compiler sees it."""
    offered = offers(family, op)
    if "cpp" in offered:
        assert (ROOT / f"csrc/{family}/{op}.hpp").is_file()
        assert extension_problem or hasattr(extension, op), f"csrc/bindings.cpp does not offer {op}"
    if "triton" in offered:
        assert f"{op}-fp32" in LAUNCHES, f"LAUNCHES of tests/kernels/hopper.py lacks {op}"


def test_every_file_has_its_op():
    places = [Path(pattern).parent.parent for pattern in EVERY_OP_HAS] + [*map(Path, OFFERED)]
    strays = []
    for place in places:
        for folder in (path for path in (ROOT / place).iterdir() if path.is_dir()):
            if folder.name.startswith("_"):
                continue
            for stem in modules(folder):
                if (folder.name, stem.removeprefix("test_")) not in OPS:
                    strays.append(str((folder / stem).relative_to(ROOT)))
    assert not strays
