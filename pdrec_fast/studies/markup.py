"""HTML of a report. Text is escaped here and nowhere else; only SVG comes in as markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1c1c1c; --faint: #595959; --page: #fbfbfa; --line: #dcdcd8;
  --accent: #005a8e; --up: #d9ecf8; --down: #fbe3d3; --warn: #fdf3d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6e6e3; --faint: #a9a9a5; --page: #17181a; --line: #3a3c40;
    --accent: #7cc0ee; --up: #17405c; --down: #5c3115; --warn: #453a17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; border-top: 1px solid var(--line); }
h2 { padding-top: 1.2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav ol { columns: 2 16rem; padding-left: 1.4rem; margin: .8rem 0; }
code { font: .88em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
.faint, .caption, figcaption, small { color: var(--faint); }
.missing { background: var(--warn); padding: .6rem .8rem; border-radius: .3rem; }
.scroll { overflow-x: auto; margin: .3rem 0 1rem; }
table { border-spacing: 0; font-size: .86rem; font-variant-numeric: tabular-nums; }
.caption { font-size: .86rem; margin: 1rem 0 0; }
th, td { padding: .32rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td, thead th { text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
tbody th { font-weight: 600; max-width: 16rem; overflow-wrap: break-word; }
td.words { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
table:has(td.words) thead th { text-align: left; }
td small { display: block; line-height: 1.35; }
td.best { font-weight: 700; }
td.best small { font-weight: 400; }
td.up { background: var(--up); }
td.down { background: var(--down); }
figure { margin: 1rem 0 1.6rem; }
figure .scroll {
  background: #ffffff; border: 1px solid var(--line); border-radius: .4rem; padding: .7rem;
  margin: 0 0 .5rem; color-scheme: light;
}
figure svg { display: block; width: 100%; min-width: 36rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important;
}
figcaption { font-size: .9rem; max-width: 46rem; }
details { margin: .4rem 0 1rem; }
summary { cursor: pointer; color: var(--accent); }
@media print {
  :root {
    --text: #000; --faint: #444; --page: #fff; --line: #ccc; --accent: #000;
    --up: #d9ecf8; --down: #fbe3d3; --warn: #fdf3d6;
  }
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


@dataclass(frozen=True)
class Cell:
    """Of a table: its text, smaller lines below, and a class of ``STYLE``."""

    text: str
    notes: tuple[str, ...] = ()
    kind: str = ""

    def __str__(self) -> str:
        small = "".join(f"<small>{escape(note)}</small>" for note in self.notes)
        kind = f' class="{self.kind}"' if self.kind else ""
        return f"<td{kind}>{escape(self.text)}{small}</td>"


@dataclass(frozen=True)
class Section:
    """A chapter of the page and its entry in the table of contents."""

    anchor: str
    title: str
    parts: Sequence[str]

    def __str__(self) -> str:
        body = "\n".join(self.parts)
        return f'<section id="{self.anchor}">\n<h2>{escape(self.title)}</h2>\n{body}\n</section>'


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(items: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"


def missing(what: str, command: str) -> str:
    """A note on what a section lacks and the command that makes it."""
    return f'<p class="missing">{escape(what)} Made by <code>{escape(command)}</code>.</p>'


def table(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Rows are (name, cells); the table scrolls on its own where it is too wide."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(str, cells))}</tr>'
        for name, cells in rows
    ]
    body = "\n".join(lines)
    return (
        f"{paragraph(caption, 'caption')}\n"
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def picture(svg: str, caption: str) -> str:
    return (
        f'<figure><div class="scroll">{svg}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    entries = "\n".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections
    )
    body = "\n".join(map(str, sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="faint">{escape(lead)}</p>
<nav aria-label="Contents"><ol>
{entries}
</ol></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""
