"""The chapters of a report. One whose rows are missing says so, and which command makes them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.studies import figures
from pdrec_fast.studies.jobs import PLAIN, Kind
from pdrec_fast.studies.load import DataSet, Epoch, Studies, StudyInfo, Variant
from pdrec_fast.studies.markup import (
    Cell,
    Section,
    bullets,
    details,
    heading,
    missing,
    paragraph,
    picture,
    table,
)
from pdrec_fast.studies.paper import PROTOCOL, TABLE_1_METRICS, TABLE_3_METRICS, paper_value
from pdrec_fast.studies.popularity import popularity_table
from pdrec_fast.studies.statements import METRIC, significant, statements
from pdrec_fast.studies.wording import (
    data_name,
    figure,
    guided_by_diffusion,
    in_order,
    is_diffusion,
    is_full,
    mean_and_sd,
    metric_name,
    model_name,
    p_value,
    percent,
    variant_name,
    with_spread,
)

# The studies that make the rows of a section, for data of one domain.
_TABLE_1: Kind = "main"
_ABLATION: Kind = "ablation"


def all_sections(studies: Studies) -> list[Section]:
    """In the order of the page."""
    return [
        _summary(studies),
        _setup(studies),
        _results(studies),
        _ablation(studies),
        _gains(studies),
        _popularity(studies),
        _training(studies),
        _ranks(studies),
        _histories(studies),
        _reading(),
    ]


def _summary(studies: Studies) -> Section:
    found = statements(studies)
    parts = [bullets(found)] if found else []
    for name, rows in (("results.csv", studies.results), ("comparisons.csv", studies.comparisons)):
        if not rows:
            parts.append(_lacking(studies, f"{name} has no rows.", _TABLE_1))
    return Section("summary", "What this shows", parts)


def _setup(studies: Studies) -> Section:
    sets = {
        (str(entry.get("name")), str(entry.get("preset"))): entry
        for info in studies.infos
        for entry in info.data_sets
    }
    sizes = ("users", "items", "records")
    rows = [
        (
            data_name(DataSet(*key)),
            [Cell(key[1]), *(Cell(_count(entry.get(size))) for size in sizes)],
        )
        for key, entry in sets.items()
    ]
    parts = [table("Data sets", ["data set", "preset", *sizes], rows)]
    parts.append(
        table(
            "Studies",
            ["", *_names(studies.infos)],
            [
                (name, [Cell(show(info), kind="words") for info in studies.infos])
                for name, show in _STUDY_ROWS
            ],
        )
    )
    parts += [paragraph(note, "missing") for note in studies.notes]
    return Section("setup", "What was run", parts)


def _names(infos: Sequence[StudyInfo]) -> list[str]:
    """Of the studies' directories, with the folder they lie in where names are not enough."""
    paths = [info.directory.resolve() for info in infos]
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{path.parent.name}/{path.name}" for path in paths]


def _finished(info: StudyInfo) -> str:
    """A date that cannot be read stands as it is."""
    if not info.values.get("finished"):
        return "not recorded" if "finished" not in info.values else "not yet"
    text = info.text("finished")
    try:
        when = datetime.fromisoformat(text).astimezone(timezone.utc)
    except ValueError:
        return text
    return when.strftime("%Y-%m-%d %H:%M UTC")


_STUDY_ROWS: list[tuple[str, Callable[[StudyInfo], str]]] = [
    ("study", lambda info: info.text("study")),
    ("encoders", lambda info: info.text("encoders")),
    ("seeds", lambda info: info.text("seeds")),
    ("settings", lambda info: info.text("settings")),
    ("command", lambda info: info.text("command")),
    ("machine", lambda info: info.text("machine")),
    ("pdrec_fast", lambda info: info.text("version")),
    ("torch", lambda info: info.text("torch")),
    ("finished", _finished),
]


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def _results(studies: Studies) -> Section:
    parts = []
    for data_set in studies.data_sets:
        for protocol in studies.protocols:
            if any(studies.values(of, protocol, METRIC) for of in studies.variants(data_set)):
                parts.append(_protocol_heading(data_set, protocol))
                parts.append(_table_1(studies, data_set, protocol))
    if not parts:
        parts = [_lacking(studies, "results.csv has no rows.", _TABLE_1)]
    return Section("results", "Models with and without PDRec", parts)


def _protocol_heading(data_set: DataSet, protocol: str) -> str:
    meaning = f" ({PROTOCOLS[protocol]})" if protocol in PROTOCOLS else ""
    return heading(f"{data_name(data_set)}, protocol {protocol}{meaning}")


def _table_1(studies: Studies, data_set: DataSet, protocol: str) -> str:
    """The paper's rows and columns, turned so that they fit a page: models down, metrics across."""
    variants = [
        of
        for of in in_order(studies.variants(data_set))
        if (of.modules == PLAIN or is_full(of)) and studies.values(of, protocol, METRIC)
    ]
    rows = []
    for variant in variants:
        values = [_value(studies, variant, protocol, of, variants) for of in TABLE_1_METRICS]
        rows.append((variant_name(variant), values))
        if is_full(variant):
            gains = [_gain(studies, variant, protocol, of) for of in TABLE_1_METRICS]
            rows.append((f"gain over {model_name(variant.model)}", gains))
    return table(
        f"Test split of {data_name(data_set)}, protocol {protocol}: mean ± standard deviation over "
        "seeds.",
        ["model", *map(metric_name, TABLE_1_METRICS)],
        rows,
    )


def _value(
    studies: Studies, variant: Variant, protocol: str, metric: str, others: Sequence[Variant]
) -> Cell:
    """The mean over seeds beside the paper's; bold where no other of the encoder is better."""
    values = studies.values(variant, protocol, metric).values()
    mean, sd = mean_and_sd(values)
    notes: tuple[str, ...] = ()
    paper = _paper(variant, protocol, metric)
    if paper is not None and values:
        notes = (f"paper {figure(paper)}, {figure(mean - paper, sign=True)}",)
    rivals = [of for of in others if of.model == variant.model]
    best = max(
        (mean_and_sd(studies.values(of, protocol, metric).values())[0] for of in rivals),
        default=mean,
    )
    return Cell(with_spread(mean, sd), notes, "best" if len(rivals) > 1 and mean >= best else "")


def _paper(variant: Variant, protocol: str, metric: str) -> float | None:
    if protocol != PROTOCOL or not guided_by_diffusion(variant):
        return None
    return paper_value(variant.data, variant.model, variant.modules, metric)


def _gain(studies: Studies, variant: Variant, protocol: str, metric: str) -> Cell:
    """Over the plain encoder, beside the paper's; tinted where it is significant."""
    row = studies.comparison(variant, protocol, metric)
    if row is None:
        return Cell("–")
    notes = [f"{p_value(row.p_seeds)} seeds", f"{p_value(row.p_users)} users"]
    ours, plain = (
        _paper(of, protocol, metric) for of in (variant, variant._replace(modules=PLAIN, guide=""))
    )
    if ours is not None and plain is not None:
        notes.append(f"paper {percent(100 * (ours / plain - 1))}")
    tint = ("up" if row.gain_percent > 0 else "down") if significant(row) else ""
    return Cell(percent(row.gain_percent), tuple(notes), tint)


def _ablation(studies: Studies) -> Section:
    parts = []
    for protocol in studies.protocols:
        drawn = figures.draw_ablation(studies, protocol)
        if drawn is not None:
            caption = (
                f"Protocol {protocol}, test split. Diamonds: mean over seeds; lines: one standard "
                "deviation to each side; dots: single seeds. Dashed: the encoder alone. The axes "
                "do not start at 0, so that the differences can be seen."
            )
            parts.append(picture(drawn, caption))
    lacking = [
        of
        for of in studies.data_sets
        if not any(figures.ablated(studies, of, protocol) for protocol in studies.protocols)
    ]
    if lacking or not parts:
        parts.append(_lacking(studies, "No single modules and steps", _ABLATION, lacking))
    for data_set in studies.data_sets:
        for protocol in studies.protocols:
            if any(studies.values(of, protocol, METRIC) for of in studies.variants(data_set)):
                parts.append(_all_variants(studies, data_set, protocol))
    return Section("ablation", "What each module does", parts)


def _all_variants(studies: Studies, data_set: DataSet, protocol: str) -> str:
    """Every variant down, the metrics of the paper's Table 3 across."""
    variants = [
        of for of in in_order(studies.variants(data_set)) if studies.values(of, protocol, METRIC)
    ]
    metrics = [
        metric
        for metric in TABLE_3_METRICS
        if any(studies.values(of, protocol, metric) for of in variants)
    ]
    rows = []
    for variant in variants:
        gain = Cell("")
        if not is_diffusion(variant) and variant.modules != PLAIN:
            gain = _gain(studies, variant, protocol, METRIC)
        values = [_value(studies, variant, protocol, metric, variants) for metric in metrics]
        rows.append((variant_name(variant), [gain, *values]))
    name = f"{data_name(data_set)}, protocol {protocol}"
    body = table(
        f"Every variant on the test split of {name}; gain in {metric_name(METRIC)} over the same "
        "encoder alone.",
        ["model", "gain", *map(metric_name, metrics)],
        rows,
    )
    return details(f"All numbers: {name}", body)


def _gains(studies: Studies) -> Section:
    parts = []
    for protocol in studies.protocols:
        drawn = figures.draw_gains(studies, protocol)
        if drawn is not None:
            caption = (
                f"Protocol {protocol}, test split: change of {metric_name(METRIC)} when modules "
                "guided by TI-DiffRec are added. Large marks: change of the mean over seeds; small "
                "dots: each seed against the same seed of the encoder alone."
            )
            parts.append(picture(drawn, caption))
    if not parts:
        parts.append(_lacking(studies, "comparisons.csv has no rows.", "universality"))
    return Section("encoders", "What PDRec adds to each encoder", parts)


def _popularity(studies: Studies) -> Section:
    parts = []
    protocols = dict.fromkeys(row.protocol for row in studies.popularity)
    for data_set in studies.data_sets:
        for protocol in protocols:
            found = popularity_table(studies, data_set, protocol)
            if found is not None:
                parts += [_protocol_heading(data_set, protocol), found]
    present = {row.data_set for row in studies.popularity}
    lacking = [of for of in studies.data_sets if of not in present]
    if lacking or not parts:
        parts.append(_lacking(studies, "No popularity of targets", _TABLE_1, lacking))
    return Section("popularity", "Rare and popular targets", parts)


def _training(studies: Studies) -> Section:
    drawn = figures.draw_training(studies)
    parts = []
    if drawn is not None:
        caption = (
            "Bold: the seed whose best value is the middle one; thin: the other seeds. Dashed: "
            "encoders alone. Seconds are of the model's own training: PDRec also needs a trained "
            "TI-DiffRec."
        )
        parts.append(picture(drawn, caption))
    for data_set in studies.data_sets:
        rows = _times(studies, data_set)
        if rows:
            heads = ["model", f"best {metric_name(METRIC)}", "seconds to it", "epochs", "seconds"]
            title = (
                f"Training on {data_name(data_set)}: best validation and when, epochs and seconds "
                "in all; means over seeds."
            )
            parts.append(table(title, heads, rows))
    lacking = [of for of in studies.data_sets if not _times(studies, of)]
    if lacking or not parts:
        parts.append(_lacking(studies, "No curves", _TABLE_1, lacking))
    return Section("training", "Validation against wall-clock", parts)


def _times(studies: Studies, data_set: DataSet) -> list[tuple[str, list[Cell]]]:
    found: dict[Variant, dict[int, list[Epoch]]] = {}
    for row in studies.curves:
        if row.data_set == data_set:
            found.setdefault(row.variant, {}).setdefault(row.seed, []).append(row)
    rows = []
    for variant in in_order(found):
        seeds = list(found[variant].values())
        validated = [[row for row in rows if math.isfinite(row.valid)] for rows in seeds]
        bests = [max(rows, key=lambda row: row.valid) for rows in validated if rows]
        values: list[tuple[Callable[[float], str], list[float]]] = [
            (_seconds, [row.seconds for row in bests]),
            (_rounded, [float(len(rows)) for rows in seeds]),
            (_seconds, [rows[-1].seconds for rows in seeds]),
        ]
        best = with_spread(*mean_and_sd(row.valid for row in bests))
        cells = [Cell(best), *(Cell(show(mean_and_sd(of)[0])) for show, of in values)]
        rows.append((variant_name(variant), cells))
    return rows


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.1f}"


def _rounded(value: float) -> str:
    return f"{value:,.0f}"


def _ranks(studies: Studies) -> Section:
    drawn = figures.draw_ranks(studies)
    parts = []
    if drawn is not None:
        caption = (
            "Test cases by the rank of their item under TI-DiffRec, protocol full, all seeds. Each "
            "panel adds up to 100 %. Cold items do not occur in training."
        )
        parts.append(picture(drawn, caption))
    present = {row.data_set for row in studies.ranks}
    lacking = [of for of in studies.data_sets if of not in present]
    if lacking or not parts:
        parts.append(_lacking(studies, "No ranks", _TABLE_1, lacking))
    return Section("ranks", "Where TI-DiffRec ranks the test item", parts)


def _histories(studies: Studies) -> Section:
    parts = []
    lacking = []
    for data_set in studies.data_sets:
        drawn = figures.draw_histories(studies, data_set)
        if drawn is None:
            lacking.append(data_set)
            continue
        caption = (
            f"{data_name(data_set)}: height of a stem is the weight that HBR gives to the "
            "behaviour. Dashed: 1, the weight of every behaviour without HBR."
        )
        users = figures.histories(studies, data_set)
        rows = [
            (
                row.user,
                [
                    Cell(str(row.position)),
                    Cell(row.item),
                    Cell(figures.moment(row)),
                    Cell(f"{row.preference:.4g}"),
                    Cell(str(row.rank)),
                    Cell(f"{row.weight:.4f}"),
                ],
            )
            for user in users
            for row in user
        ]
        head = ["user", "position", "item", "when", "preference", "rank", "weight"]
        title = f"HBR weights on {data_name(data_set)}, seed {users[0][0].seed}"
        parts += [
            picture(drawn, caption),
            details(f"All numbers: {title}", table(title, head, rows)),
        ]
    if lacking or not parts:
        parts.append(_lacking(studies, "No HBR weights", _TABLE_1, lacking))
    return Section("histories", "HBR weights along histories", parts)


def _reading() -> Section:
    lines = [
        "N@k and HR@k: NDCG and hit rate among the first k; every test case has one relevant item. "
        "AUC: share of the other candidates that score lower; ties count half.",
        *(f"Protocol {name}: {meaning}." for name, meaning in PROTOCOLS.items()),
        "Numbers of different protocols are not comparable. The paper's numbers are of protocol "
        f"{PROTOCOL}; after them stands ours minus the paper's.",
        "±: sample standard deviation over seeds. p: two-sided paired t-tests, over seeds and over "
        "users (each user's metric averaged over seeds); not corrected for their number.",
        "Bold: the best of an encoder's rows in a table.",
        "Tinted gains have p < .05 over seeds, or over users where there is one seed.",
    ]
    return Section("reading", "How to read this", [bullets(lines)])


def _lacking(studies: Studies, what: str, kind: Kind, data_sets: Sequence[DataSet] = ()) -> str:
    """The note on rows that are missing, for some of the data sets or altogether."""
    if data_sets:
        what = f"{what} for {', '.join(map(data_name, data_sets))}."
    info = _info_of(studies, data_sets[0]) if data_sets else studies.infos[0]
    data = f"{data_sets[0].data}.inter" if data_sets else "FILE.inter"
    command = shlex.join(
        ["pdrec-fast", "study", kind, "--data", data, "--out", str(info.directory)]
    )
    if info.text("study") == "cross-domain":  # one study makes all of its parts
        command = info.text("command")
    return missing(what if what.endswith(".") else f"{what}.", command)


def _info_of(studies: Studies, data_set: DataSet) -> StudyInfo:
    for info in studies.infos:
        if any(entry.get("name") == data_set.data for entry in info.data_sets):
            return info
    return studies.infos[0]
