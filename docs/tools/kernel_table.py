"""The table kernel -> operation -> where it is used, read from the code without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Implementation -> (folder, suffix of its file).
KERNELS = {
    "C++": ("csrc", "cpp"),
    "Triton": ("kernels/triton", "py"),
    "Numba": ("kernels/numba", "py"),
}


def kernel_table(root: Path) -> str:
    """One Markdown table for each family of operations, then what the modules are that use them."""
    used = _users(root)
    lines: list[str] = []
    modules: set[str] = set()
    for family in sorted(path for path in (root / "pdrec_fast/ops").iterdir() if path.is_dir()):
        if family.name.startswith("_"):
            continue
        lines += [f"## {family.name.capitalize()}", "", _docstring(family / "__init__.py"), ""]
        lines += ["| operation | kernels | used in |", "| --- | --- | --- |"]
        for file in _operations(family):
            users = sorted(used.get((family.name, file.stem), set()))
            modules.update(users)
            places = ", ".join(f"`{user}`" for user in users) or "not used by the package itself"
            name = f"pdrec_fast.ops.{family.name}.{file.stem}.{file.stem}"
            kernels = ", ".join(_kernels(root, family.name, file.stem)) or "PyTorch alone"
            lines.append(f"| [`{file.stem}`][{name}] | {kernels} | {places} |")
        lines.append("")
    lines += ["## Where they are used", "", "| module of `pdrec_fast` | what it is |"]
    lines.append("| --- | --- |")
    for module in sorted(modules):
        lines.append(f"| `{module}` | {_docstring(root / 'pdrec_fast' / module)} |")
    return "\n".join(lines)


def _operations(family: Path) -> list[Path]:
    return sorted(file for file in family.glob("*.py") if not file.name.startswith("_"))


def _kernels(root: Path, family: str, op: str) -> Iterator[str]:
    for kind, (folder, suffix) in KERNELS.items():
        if (root / folder / family / f"{op}.{suffix}").is_file():
            yield kind


def _users(root: Path) -> dict[tuple[str, str], set[str]]:
    """(family, operation) -> modules of the package that call it, other operations included."""
    package = root / "pdrec_fast"
    found: dict[tuple[str, str], set[str]] = {}
    reaching: dict[str, set[str]] = {}
    for file in sorted(package.rglob("*.py")):
        module = file.relative_to(package).as_posix()
        if module.startswith("reference/"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = (node.module or "").split(".")
            if parts[:2] != ["pdrec_fast", "ops"] or len(parts) != 4 or parts[3].startswith("_"):
                continue
            family, op = parts[2:]
            if op not in reaching:
                reaching[op] = _reaching(package / "ops" / family / f"{op}.py")
            if reaching[op] & {alias.name for alias in node.names}:
                found.setdefault((family, op), set()).add(module)
    return found


def _reaching(source: Path) -> set[str]:
    """Functions of an operation's file that run the operation: itself, and those that call it."""
    functions = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef)]
    names = {
        f.name: {n.id for n in ast.walk(f) if isinstance(n, ast.Name)} | {f.name} for f in functions
    }
    reaching = {source.stem, f"_{source.stem}"}
    while more := {name for name, within in names.items() if within & reaching} - reaching:
        reaching |= more
    return reaching


def _docstring(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
