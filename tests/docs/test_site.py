"""The site's tools: the check of a built site, the tables made from the code, links of pages."""

import importlib
import json
import re
from pathlib import Path

import pytest

import pdrec_fast as pf
from tests.test_addresses import OPS, ROOT

TOOLS = ROOT / "docs" / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


GOOD = {
    "index.html": '<link href="a.css"><a href="more.html#here">m</a><a href="https://x.org">x</a>',
    "more.html": '<h2 id="here">h</h2><img src="p.svg" alt="a picture"><a href="#here">h</a>',
    "a.css": "body { background: url(p.svg) }",
    "p.svg": "<svg/>",
    "search/search_index.json": json.dumps(
        {
            "docs": [
                {"location": "index.html"},
                {"location": "more.html#here"},
                {"location": "more.html"},
            ]
        }
    ),
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"p.svg": None}, ["more.html: p.svg leads nowhere"]),
        ({"more.html": "x"}, ["index.html: more.html#here leads nowhere"]),
        (
            {"index.html": '<script src="https://cdn.org/a.js"></script>'},
            ["index.html: loads https://cdn.org/a.js"],
        ),
        ({"index.html": '<link href="//f.org/f">'}, ["index.html: loads //f.org/f"]),
        (
            {"a.css": '@import "https://f.org/f.css";'},
            ['a.css: loads @import "https://f.org/f.css'],
        ),
        ({"index.html": '<img src="p.svg">'}, ["index.html: image without alt: p.svg"]),
        ({"new.html": "x"}, ["new.html: not in the search"]),
        ({"search/search_index.json": None}, ["search/search_index.json is missing"]),
    ],
)
def test_the_check_finds_what_is_wrong(changed, told, tool, tmp_path):
    for name, text in {**GOOD, **changed}.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    assert tool("check_site").problems(tmp_path) == told


def test_a_folder_without_pages_is_no_site(tool, tmp_path):
    assert tool("check_site").problems(tmp_path) == [f"{tmp_path}: no pages; build the site first"]


def test_the_table_has_every_operation_with_its_kernels_and_users(tool):
    table = tool("kernel_table").kernel_table(ROOT)
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\[pdrec_fast\.ops\S+\] (.*)$", table, re.MULTILINE))
    assert rows.keys() == {op for _, op in OPS}
    assert "not used by the package itself" not in table
    kernels, users = rows["packed_dropout"].strip("| ").split(" | ")
    assert kernels == "C++, Triton"
    assert rows["interval_weights"].startswith("| Numba |")
    assert rows["project"].startswith("| PyTorch alone |")
    assert {"`encoders/sasrec.py`", "`ops/packed/sasrec_block.py`"} <= {*users.split(", ")}
    # A module that takes the size of blocks from an operation's file does not run the operation.
    assert "evaluation/scoring.py" not in rows["project"]
    # One that takes a function of the file which calls the operation does.
    assert "recommending/best.py" in rows["select_unobserved"]


def test_the_reference_has_every_public_name_once():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    names = [
        n for page in pages for n in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(names) == len({*names})
    public = {f"pdrec_fast.{name}" for name in pf.__all__ if name != "__version__"}
    operations = {f"pdrec_fast.ops.{family}.{op}.{op}" for family, op in OPS}
    assert public | operations <= {*names}
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_pages_that_the_text_names_become_links(tool):
    pytest.importorskip("mkdocs", reason='pip install "pdrec_fast[docs]"')
    hooks = tool("hooks")

    class Files:
        def get_file_from_path(self, uri):
            known = "data.md", "tutorials/cluster.md", "changelog.md", "notebooks/one-user.md"
            return uri if uri in known else None

    def linked(text, here="faq.md"):
        return hooks.link_pages(text, here, Files())

    assert linked("see `docs/data.md`.") == "see [Data](data.md)."
    assert linked("`docs/data.md`", "tutorials/cluster.md") == "[Data](../data.md)"
    assert linked("`docs/tutorials/cluster.md`") == "[Cluster](tutorials/cluster.md)"
    assert linked("`docs/notebooks/one-user.ipynb`") == "[One user](notebooks/one-user.md)"
    assert linked("`CHANGELOG.md`") == "[Changelog](changelog.md)"
    for as_it_is in (
        "`docs/none.md`",
        "docs/data.md",
        "    cat `docs/data.md`",
        "[`docs/data.md`](data.md)",
        "```\n`docs/data.md`\n```",
    ):
        assert linked(as_it_is) == as_it_is
    assert linked("`docs/data.md`", "data.md") == "`docs/data.md`"


def test_figures_that_pages_show_are_here():
    shown = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / name).is_file(), f"{page}: {name}"
            shown.add(Path(name).stem)
    assert {"diffusion", "hbr", "pools", "weights", "overview"} <= shown
