"""One HTML page from the files of finished studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pdrec_fast.files import write_text
from pdrec_fast.studies.load import load_studies
from pdrec_fast.studies.markup import page
from pdrec_fast.studies.sections import all_sections
from pdrec_fast.studies.wording import data_name


def write_report(directories: Sequence[str | Path], out: str | Path) -> Path:
    """Write a page that needs no network and no script: tables and figures of one or more studies.

    It reads ``study.json`` and the CSV files; the runs themselves may be gone. The same files give
    the same bytes.

    Args:
        directories: of ``run_study``. A model that stands in several is shown from the one with
            most seeds of it.
        out: the page, e.g. ``report.html``; replaced where it exists, its directory made.

    Returns:
        ``out``.

    Raises:
        ValueError: no directory, or the same one twice.
        DataError: a directory holds no study, a file is damaged, or two directories ran the same
            data set with different settings.
        MissingExtraError: the extra ``studies`` is not installed.
    """
    studies = load_studies([Path(directory) for directory in directories])
    names = ", ".join(map(data_name, studies.data_sets)) or "no results yet"
    kinds = " + ".join(dict.fromkeys(info.text("study") for info in studies.infos))
    text = page(f"PDRec: {names}", f"Studies: {kinds}.", all_sections(studies))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return out
