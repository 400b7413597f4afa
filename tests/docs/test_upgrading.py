"""docs/upgrading.md names every former name that the code still takes, and no other."""

import ast
import re
from pathlib import Path

from pdrec_fast.presets import FORMER_NAMES

ROOT = Path(__file__).resolve().parents[2]


def former_names(tree, inside=""):
    """What warns of a former name: decorated keywords, and functions that say so themselves."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.ClassDef | ast.FunctionDef)
        name = f"{inside}.{node.name}".lstrip(".") if named else inside
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if ast.unparse(decorator).startswith("renamed_keywords("):
                    for keyword in decorator.keywords:
                        yield f"{name}({keyword.arg}=)", f"{name}({keyword.value.value}=)"
        elif isinstance(node, ast.Name) and node.id == "DeprecationWarning":
            yield inside, None
        yield from former_names(node, name)


def test_every_former_name_is_listed():
    found = {}
    for path in (ROOT / "pdrec_fast").rglob("*.py"):
        if path.name not in ("deprecation.py", "cli.py"):  # that makes them; that shows them
            found |= former_names(ast.parse(path.read_text()))
    assert found.pop("current_name", 1) is None  # of presets, whose names are here:
    found |= {f"preset {old}": f"preset {new}" for old, new in FORMER_NAMES.items()}
    text = (ROOT / "docs" / "upgrading.md").read_text().partition("## Former names")[2]
    rows = re.findall(r"^\| (.*) \| (.*) \|$", text.replace("`", ""), re.MULTILINE)
    listed = dict(rows[2:])  # after the header
    assert listed.keys() == found.keys()
    assert len(found) >= 7
    assert all(listed[old] == new for old, new in found.items() if new)
