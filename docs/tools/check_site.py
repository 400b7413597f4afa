"""Looks over a built site: ``python docs/tools/check_site.py build/site`` ends with status 1 where

a link, an image or an anchor leads nowhere, something is loaded from another server, an image has
no description, or the search does not know a page.
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads by itself; a link that somebody follows may lead anywhere.
LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}
FROM_ELSEWHERE = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//[^)"'\s]+""")


class Page(HTMLParser):
    """Links, loaded files, anchors and images of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.without_description: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        for name, value in found.items():
            if (tag, name) in LOADED:
                self.loaded.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.add(value)
        if tag == "img" and not found.get("alt"):
            self.without_description.append(found.get("src", ""))


def problems(site: Path) -> list[str]:
    """What is wrong with the site, one line each."""
    site = site.resolve()
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site}: no pages; build the site first"]
    found = []
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are absolute: nobody knows where it is shown
            continue
        name = path.relative_to(site).as_posix()
        found += [f"{name}: loads {url}" for url in sorted(page.loaded) if _elsewhere(url)]
        found += [f"{name}: image without alt: {url}" for url in page.without_description]
        for url in sorted(page.links | page.loaded):
            if not _elsewhere(url) and not _leads_somewhere(path, url, pages):
                found.append(f"{name}: {url} leads nowhere")
    for style in sorted(site.rglob("*.css")):
        urls = FROM_ELSEWHERE.findall(style.read_text())
        found += [f"{style.relative_to(site)}: loads {url}" for url in urls]
    return found + _unknown_to_the_search(site, pages)


def _elsewhere(url: str) -> bool:
    return bool(urlsplit(url).scheme or url.startswith("//"))


def _leads_somewhere(path: Path, url: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(url)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if target not in pages or not parts.fragment:
        return target.is_file()
    return unquote(parts.fragment) in pages[target].anchors


def _unknown_to_the_search(site: Path, pages: dict[Path, Page]) -> list[str]:
    index = site / "search" / "search_index.json"
    if not index.is_file():
        return ["search/search_index.json is missing"]
    known = {entry["location"].partition("#")[0] for entry in json.loads(index.read_text())["docs"]}
    names = {path.relative_to(site).as_posix() for path in pages} - {"404.html"}
    return [f"{name}: not in the search" for name in sorted(names - known)]


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]}: no dead link, nothing loaded from elsewhere")
    sys.exit(bool(found))
