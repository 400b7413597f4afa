"""What MkDocs does to the pages beyond Markdown (``hooks`` of mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kernel_table import kernel_table  # MkDocs looks beside this file
from mkdocs.structure.files import File, Files
from notebook_page import notebook_page

ROOT = Path(__file__).resolve().parents[2]
# Files that lie elsewhere in the repository -> where the site has them.
ELSEWHERE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: Any) -> Files:
    pictures = (ROOT / "bench" / "results").glob("**/*.svg")
    places = {picture.relative_to(ROOT).as_posix(): None for picture in pictures}
    for source, place in {**places, **ELSEWHERE}.items():
        files.append(File.generated(config, place or source, abs_src_path=str(ROOT / source)))
    for notebook in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        page, pictures = notebook_page(notebook)
        for name, content in {f"{notebook.stem}.md": page, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    if "<!-- kernels -->" in markdown:
        markdown = markdown.replace("<!-- kernels -->", kernel_table(ROOT))
    if "<!-- names -->" in markdown:
        markdown = markdown.replace("<!-- names -->", names_table(ROOT / "docs" / "reference"))
    # The pages are read in the repository too, where ``bench`` lies beside ``docs``.
    markdown = markdown.replace("](../bench/", "](bench/")
    return link_pages(markdown, page.file.src_uri, files)


def names_table(folder: Path) -> str:
    """The pages of the reference, and what is on each."""
    lines = ["| page | names |", "| --- | --- |"]
    for page in sorted(folder.glob("*.md")):
        text = page.read_text()
        links = [f"[`{n.split('.')[-1]}`][{n}]" for n in re.findall(r"^::: (\S+)$", text, re.M)]
        if links:
            lines.append(f"| [{text.split(chr(10))[0][2:]}]({page.name}) | {', '.join(links)} |")
    return "\n".join(lines)


def link_pages(markdown: str, here: str, files: Files) -> str:
    """Make links of the pages that the text names, as in `docs/data.md`; code blocks stay."""

    def link(found: re.Match[str]) -> str:
        uri = ELSEWHERE.get(found[1]) or found[1].removeprefix("docs/").replace(".ipynb", ".md")
        if files.get_file_from_path(uri) is None or uri == here:
            return found[0]
        title = Path(uri).stem.replace("-", " ").capitalize()
        return f"[{title}]({'../' * here.count('/')}{uri})"

    names = "|".join(map(re.escape, ELSEWHERE))
    pattern = re.compile(rf"(?<!\[)`(docs/[\w/-]+\.(?:md|ipynb)|{names})`(?!\])")
    lines, in_code = [], False
    for line in markdown.split("\n"):
        in_code ^= line.lstrip().startswith("```")
        indented = line.startswith("    ") and not line.lstrip().startswith(("-", "*"))
        lines.append(line if in_code or indented else pattern.sub(link, line))
    return "\n".join(lines)
