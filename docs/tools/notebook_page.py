"""A notebook as a page of the site: its Markdown, its code and what came of it, as stored."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page's Markdown, and the pictures that it shows by their names."""
    blocks, pictures = [], {}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source.replace(".ipynb)", ".md)"))
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            picture, text = _shown(output)
            if picture:
                name = f"{path.stem}-{number}.png"
                pictures[name] = base64.b64decode(picture)
                blocks.append(f"![{cell['metadata']['alt']}]({name})")
            else:
                blocks.append(f"```text\n{text.rstrip()}\n```")
    blocks.insert(1, f"*This page is a notebook: [{path.name}]({path.name}).*")
    return "\n\n".join(blocks), pictures


def _shown(output: dict[str, Any]) -> tuple[str, str]:
    """A PNG picture in base64, or else a text."""
    if "text" in output:
        return "", "".join(output["text"])
    data = output["data"]
    return "".join(data.get("image/png", "")), "".join(data.get("text/plain", ""))
