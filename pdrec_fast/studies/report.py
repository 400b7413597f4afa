"""One HTML page from the files of finished studies."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.files import make_directory, write_text
from pdrec_fast.studies import figures, report_tables
from pdrec_fast.studies.jobs import Kind
from pdrec_fast.studies.labels import METRIC_NAME
from pdrec_fast.studies.load import Studies, load_studies
from pdrec_fast.studies.paper import PROTOCOL
from pdrec_fast.studies.report_tables import Table
from pdrec_fast.studies.schema import need_extra
from pdrec_fast.studies.statements import statements
from pdrec_fast.studies.variants import DataSet


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
    need_extra("pandas", "matplotlib", "jinja2")
    import jinja2

    studies = load_studies([Path(directory) for directory in directories])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pdrec_fast.studies"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html").render(_contents(studies))
    out = Path(out)
    make_directory(out.parent)
    write_text(out, text)
    return out


def _contents(studies: Studies) -> dict[str, Any]:
    """What the template lays out."""
    data_sets, protocols = studies.data_sets, studies.protocols
    ablation = {name: figures.draw_ablation(studies, name) for name in protocols}
    gains = {name: figures.draw_gains(studies, name) for name in protocols}
    times = [report_tables.times_table(studies, found) for found in data_sets]
    return {
        "names": [found.name for found in data_sets],
        "kinds": list(dict.fromkeys(info.text("study") for info in studies.infos)),
        "metric": METRIC_NAME,
        "protocols": PROTOCOLS,
        "paper_protocol": PROTOCOL,
        "statements": statements(studies),
        "data_sets": report_tables.data_sets_table(studies),
        "studies": report_tables.studies_table(studies.infos),
        "notes": studies.notes,
        "results": _tables(studies, report_tables.results_table),
        "variants": _tables(studies, report_tables.variants_table),
        "popularity": _tables(studies, report_tables.popularity_table),
        "ablation": {name: image for name, image in ablation.items() if image},
        "gains": {name: image for name, image in gains.items() if image},
        "training": figures.draw_training(studies),
        "times": [table for table in times if table],
        "ranks": figures.draw_ranks(studies),
        "histories": [
            (found.name, image, report_tables.histories_table(studies, found))
            for found in data_sets
            if (image := figures.draw_histories(studies, found))
        ],
        "missing": {name: _missing(studies, *what) for name, what in _lacking(studies, gains)},
    }


def _tables(
    studies: Studies, make: Callable[[Studies, DataSet, str], Table | None]
) -> list[tuple[str, str, Table]]:
    """(data set, protocol, table), where there are rows."""
    protocols = dict.fromkeys([*studies.protocols, *studies.tables["popularity"]["protocol"]])
    return [
        (found.name, protocol, table)
        for found in studies.data_sets
        for protocol in protocols
        if (table := make(studies, found, protocol)) is not None
    ]


def _lacking(
    studies: Studies, gains: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, Kind, Sequence[DataSet]]]]:
    """(section, (what it lacks, the study that makes it, for which data sets, if not for all))."""
    for name in ("results", "comparisons"):
        if studies.tables[name].empty:
            yield name, (f"{name}.csv has no rows", "main", ())
    if not any(gains.values()):
        yield "gains", ("comparisons.csv has no rows", "universality", ())
    kinds: dict[str, tuple[str, Kind]] = {
        "ablation": ("No single modules and steps", "ablation"),
        "popularity": ("No popularity of targets", "main"),
        "curves": ("No curves", "main"),
        "ranks": ("No ranks", "main"),
        "hbr": ("No HBR weights", "main"),
    }
    for name, what in kinds.items():
        missing = [found for found in studies.data_sets if not _has(studies, name, found)]
        if missing or not studies.data_sets:
            yield name, (*what, missing)


def _has(studies: Studies, name: str, data_set: DataSet) -> bool:
    if name == "ablation":
        return any(figures.ablated(studies, data_set, protocol) for protocol in studies.protocols)
    return not studies.rows(name, data_set).empty


def _missing(
    studies: Studies, what: str, kind: Kind, data_sets: Sequence[DataSet]
) -> dict[str, str]:
    """The words, and the command that makes it."""
    info, data = studies.infos[0], "FILE"
    if data_sets:
        what = f"{what} for {', '.join(found.name for found in data_sets)}"
        data = data_sets[0].data
        info = next((each for each in studies.infos if each.holds(data)), info)
    command = ["pdrec-fast", "study", kind, "--data", f"{data}.inter", "--out", info.directory]
    if info.text("study") == "cross-domain":  # one study makes all of its parts
        return {"what": f"{what}.", "command": info.text("command")}
    return {"what": f"{what}.", "command": shlex.join(map(str, command))}
