"""Runs the notebooks of docs/notebooks from top to bottom and writes them with what comes of it:
``python docs/tools/notebooks.py``, half a minute a notebook.

What is written has no times, paths or numbers of versions but those that the results depend on, so
that a second run on the same machine writes the same bytes.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient

from pdrec_fast import build_info

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
ROOT = FOLDER.parents[1]


def made_by() -> dict[str, str]:
    """What the last digits of a training depend on."""
    processor = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__.partition("+")[0],
        "processor": f"{processor}, {build_info().get('isa', 'no extension')}",
    }


def executed(path: Path) -> Any:
    """The notebook with fresh outputs, run in a folder of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        ValueError: an output names a folder of this machine.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute(env=os.environ | {"OMP_NUM_THREADS": "1"})  # two round otherwise than one
        for text in texts(notebook):
            for private in (folder, str(ROOT), str(Path.home())):
                if private in text:
                    raise ValueError(f"{path.name}: an output names {private}: {text[:200]!r}")
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "made_by": made_by(),
    }
    return notebook


def texts(notebook: Any) -> list[str]:
    """The text of every output, in order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.get("text") or output["data"].get("text/plain", "") for output in outputs]


def without_numbers(text: str) -> str:
    """The text with every number as 0 and every gap as one space."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d+)?", "0", text))


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
