"""One HTML page from the files of finished studies."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.files import write_text
from pdrec_fast.studies import figures, report_tables
from pdrec_fast.studies.jobs import Kind
from pdrec_fast.studies.labels import METRIC_NAME
from pdrec_fast.studies.load import Studies, load_studies
from pdrec_fast.studies.paper import PROTOCOL
from pdrec_fast.studies.report_tables import Table
from pdrec_fast.studies.schema import need_extra
from pdrec_fast.studies.statements import statements
from pdrec_fast.studies.variants import DataSet


class Missing(NamedTuple):
    """What a section lacks, and the command that makes it."""

    what: str
    command: str


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
        ImportError: the extra ``studies`` is not installed.
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
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return out


def _contents(studies: Studies) -> dict[str, Any]:
    """What the template lays out."""
    protocols = studies.protocols
    drawn = {
        "ablation": {name: figures.draw_ablation(studies, name) for name in protocols},
        "gains": {name: figures.draw_gains(studies, name) for name in protocols},
    }
    histories = {
        data_set.name: (
            figures.draw_histories(studies, data_set),
            report_tables.histories_table(studies, data_set),
        )
        for data_set in studies.data_sets
        if figures.histories(studies, data_set)
    }
    return {
        "names": [found.name for found in studies.data_sets],
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
        "ablation": {name: image for name, image in drawn["ablation"].items() if image},
        "gains": {name: image for name, image in drawn["gains"].items() if image},
        "training": figures.draw_training(studies),
        "times": list(
            filter(None, (report_tables.times_table(studies, each) for each in studies.data_sets))
        ),
        "ranks": figures.draw_ranks(studies),
        "histories": histories,
        "missing": _all_missing(studies, any(drawn["gains"].values())),
    }


def _tables(
    studies: Studies, make: Callable[[Studies, DataSet, str], Table | None]
) -> list[tuple[str, str, Table]]:
    """(data set, protocol, table), where there are rows."""
    protocols = dict.fromkeys([*studies.protocols, *studies.tables["popularity"]["protocol"]])
    return [
        (data_set.name, protocol, table)
        for data_set in studies.data_sets
        for protocol in protocols
        if (table := make(studies, data_set, protocol)) is not None
    ]


def _all_missing(studies: Studies, has_gains: bool) -> dict[str, Missing]:
    """By table, what is not there; "ablation" for single modules and steps."""
    found = {
        name: _missing(studies, f"{name}.csv has no rows", "main")
        for name in ("results", "comparisons")
        if studies.tables[name].empty
    }
    if not has_gains:
        found["gains"] = _missing(studies, "comparisons.csv has no rows", "universality")
    lacking = {
        "popularity": ("No popularity of targets", studies.without("popularity")),
        "curves": ("No curves", studies.without("curves")),
        "ranks": ("No ranks", studies.without("ranks")),
        "hbr": ("No HBR weights", studies.without("hbr")),
        "ablation": ("No single modules and steps", _without_ablation(studies)),
    }
    for name, (what, data_sets) in lacking.items():
        if data_sets or not studies.data_sets:
            kind: Kind = "ablation" if name == "ablation" else "main"
            found[name] = _missing(studies, what, kind, data_sets)
    return found


def _without_ablation(studies: Studies) -> list[DataSet]:
    return [
        data_set
        for data_set in studies.data_sets
        if not any(figures.ablated(studies, data_set, name) for name in studies.protocols)
    ]


def _missing(studies: Studies, what: str, kind: str, data_sets: Sequence[DataSet] = ()) -> Missing:
    """What is missing for some of the data sets, or altogether."""
    info, data = studies.infos[0], "FILE"
    if data_sets:
        what = f"{what} for {', '.join(found.name for found in data_sets)}"
        data = data_sets[0].data
        holding = [each for each in studies.infos if data in (name for name, _ in each.data_sets)]
        info = holding[0] if holding else info
    command = ["pdrec-fast", "study", kind, "--data", f"{data}.inter", "--out", info.directory]
    if info.text("study") == "cross-domain":  # one study makes all of its parts
        return Missing(f"{what}.", info.text("command"))
    return Missing(f"{what}.", shlex.join(map(str, command)))
