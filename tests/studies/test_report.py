"""The page: what it holds, that it needs nothing else, and what it says where rows are missing."""

import base64
import json
import re
import statistics
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from pdrec_fast.cli import app
from pdrec_fast.studies import write_report
from pdrec_fast.studies.paper import TABLE_1_METRICS
from tests.studies.study_files import GUIDED, PLAIN, VARIANTS, value_of, write_study

pytest.importorskip("matplotlib")

ANCHORS = [
    "summary",
    "setup",
    "results",
    "ablation",
    "encoders",
    "popularity",
    "training",
    "ranks",
    "histories",
    "reading",
]
VOID = {"meta", "br", "hr", "img", "link", "input"}
SVG = "data:image/svg+xml;base64,"


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: (name, attributes) of every element.
        tables: rows of cells' text, per table; by its label.
        sections: text by anchor, that of its pictures too.
        pictures: (section, alternative text, SVG) of every image.
    """

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.open, self.pictures = text, [], [], []
        self.tables, self.sections, self._label, self._section = {}, {}, None, None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            svg = base64.b64decode(dict(attrs)["src"].removeprefix(SVG)).decode()
            self.pictures.append((self._section, dict(attrs)["alt"], svg))
            self.sections[self._section] += "".join(ElementTree.fromstring(svg).itertext())
        if tag == "section":
            self._section = dict(attrs)["id"]
            self.sections[self._section] = ""
        if "aria-label" in dict(attrs):
            self._label = dict(attrs)["aria-label"]
        if tag == "table":
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("td", "th"):
            self.tables[self._label][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "section" in self.open:
            self.sections[self._section] += data
        if "td" in self.open or "th" in self.open:
            self.tables[self._label][-1][-1] += ("\n" if "small" in self.open else "") + data

    def table(self, beginning):
        (label,) = [label for label in self.tables if label.startswith(beginning)]
        head, *rows = self.tables[label]
        return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def report_on(*folders, out=None):
    out = out or folders[0].parent / "report.html"
    assert write_report(folders, out) == out
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "study"
    return report_on(write_study(folder, protocols=("paper", "full")))


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def digits(value):
    return f"{value:.4f}".lstrip("0")


def test_every_section_is_there_and_in_the_contents(page):
    assert list(page.sections) == ANCHORS
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in ANCHORS]
    assert "Made by" not in page.source  # nothing is missing


def test_it_loads_nothing_and_runs_nothing(page):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert attrs.get("href", "#").startswith("#"), attrs
        assert ("src" in attrs) == (tag == "img")
        assert attrs.get("src", SVG).startswith(SVG), attrs
    for text in (page.source, *(svg for _, _, svg in page.pictures)):
        assert not re.search(r'@import|url\((?!#)|<script|<image| href="(?!#)', text)
        assert not re.search(r'xlink:href="(?!#)', text)


def test_ids_are_unique_and_every_reference_has_its_target(page):
    for text in (page.source, *(svg for _, _, svg in page.pictures)):
        ids = re.findall(r' id="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        wanted = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert len(wanted) >= len(ANCHORS)
        assert set(wanted) <= set(ids)


def test_every_figure_has_text_and_an_alternative(page):
    sections = [section for section, _, _ in page.pictures]
    assert sections == [*["ablation"] * 2, *["encoders"] * 2, "training", "ranks", "histories"]
    for _, alternative, svg in page.pictures:
        assert len(alternative) > 50
        assert "<text" in svg
        assert "\\math" not in svg


def test_numbers_of_the_tables_are_those_of_the_files(page):
    for protocol in ("paper", "full"):
        rows = page.table(f"Test split of Toy, protocol {protocol}")
        assert list(rows) == [
            *("T-DiffRec", "TI-DiffRec", "GRU4Rec", "PDRec (GRU4Rec)", "gain over GRU4Rec"),
            *("SASRec", "PDRec (SASRec)", "gain over SASRec"),
        ]
        for name, variant in (("SASRec", PLAIN), ("PDRec (SASRec)", GUIDED)):
            for metric in TABLE_1_METRICS:
                values = [value_of(variant, seed, metric, protocol) for seed in range(3)]
                shown = f"{digits(statistics.mean(values))} ± {digits(statistics.stdev(values))}"
                column = metric.upper().replace("NDCG", "N")
                assert plain(rows[name][column]).split("\n")[0] == shown
        gains = [plain(cell).split("\n") for cell in rows["gain over SASRec"].values()]
        assert {tuple(gain[:3]) for gain in gains} == {
            ("+7.2 %", "p = .012 seeds", "p < .001 users")
        }
    assert "0.9999" not in page.source
    assert ".9999" not in page.source  # validation


def test_the_papers_figures_stand_beside_with_the_difference(page):
    rows = page.table("Test split of Toy, protocol paper")
    # Ours: .25, .002 for the metric and .0004 for the middle seed.
    assert plain(rows["PDRec (SASRec)"]["N@10"]).split("\n")[1] == "paper .2286, +.0238"
    assert plain(rows["gain over SASRec"]["N@10"]).split("\n")[3] == "paper +13.2 %"
    assert "paper ." not in str(page.table("Test split of Toy, protocol full"))
    other = page.table("Every variant on the test split of Toy, protocol paper")
    assert "paper" not in other["PDRec (SASRec), guide SASRec"]["N@10"]


def test_significant_gains_are_tinted(page):
    kinds = [attrs.get("class") for tag, attrs in page.tags if tag == "td"]
    assert "up" in kinds
    assert "down" in kinds


def test_all_variants_have_a_table(page):
    rows = page.table("Every variant on the test split of Toy, protocol paper")
    assert len(rows) == len(VARIANTS)
    assert plain(rows["SASRec + HBR"]["gain"]).startswith("−3.5 %")
    assert plain(rows["SASRec + HBR"]["N@50"]).startswith(
        digits(value_of(VARIANTS[3], 1, "ndcg@50"))
    )
    assert rows["SASRec"]["gain"] == rows["T-DiffRec"]["gain"] == ""


def test_targets_stand_apart_by_popularity(page):
    rows = page.table("N@10 on the test split of Toy, protocol paper, by the target's records")
    assert len(rows) == len(VARIANTS)
    alone, guided = rows["SASRec"], rows["PDRec (SASRec)"]
    assert list(alone) == ["0 (25 %)", "2–4 (75 %)"]
    plain_value, value = (value_of(of, 1, "ndcg@10") for of in (PLAIN, GUIDED))
    assert plain(alone["2–4 (75 %)"]).startswith(digits(2 * plain_value))
    assert plain(guided["2–4 (75 %)"]).startswith(digits(2 * value))
    assert "%" in guided["2–4 (75 %)"]
    assert "%" not in alone["2–4 (75 %)"] + guided["0 (25 %)"]


def test_what_it_shows_is_computed(page):
    text = plain(page.sections["summary"])
    assert (
        "By N@10 on test, protocol paper, PDRec is above its backbone in 1 of 2 pairs of data set "
        "and encoder (in 1 with p < .05) and below it in 1 (in 1 with p < .05)." in text
    )
    assert "PDRec (SASRec) on Toy: N@10 .2524 against .2500 ± .0011 of SASRec: +7.2 % " in text
    assert "(p = .012 over 3 seeds, p < .001 over 60 users)." in text
    assert "TI-DiffRec on Toy: N@10 .2124 against .2500 ± .0011 of T-DiffRec: −3.5 %" in text
    # Of 20 cases per seed, 5 are cold; of 15 known ones the middle is in the last bin.
    assert "On Toy, 25.0 % of the test items are cold" in text
    assert "within 101–150 for items that occur in training and within 101–150 for cold" in text


def test_what_was_run(page):
    assert page.table("Data sets")["Toy"] == {
        "preset": "toy",
        "users": "60",
        "items": "150",
        "records": "1,234",
    }
    studies = {name: row["study"] for name, row in page.table("Studies").items()}
    assert studies["machine"] == "an abacus, 2 cores"
    assert studies["seeds"] == "0, 1, 2"
    assert studies["settings"] == "none"
    assert studies["command"] == "pdrec-fast study main --data toy.inter --out study"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", studies["finished"])


def test_ranks_stand_beside_a_random_order(page):
    text = page.sections["ranks"]
    assert text.count("in random order") == 2
    assert "Toy: items that occur in training (75.0 % of the test)" in text
    assert "Toy: cold items (25.0 % of the test)" in text


def test_training_table(page):
    row = page.table("Training on Toy")["PDRec (SASRec)"]
    # Best at the third of four epochs: .15, .16, .17 after 7.5 seconds.
    assert plain(row.pop("best N@10")) == ".1600 ± .0100"
    assert row == {"seconds to it": "7.5", "epochs": "4", "seconds": "10.0"}


def test_histories_show_one_seed_with_raw_ids_and_dates(page):
    text = page.sections["histories"]
    assert "HBR weights on Toy, seed 0" in text
    assert len(page.tables["HBR weights on Toy, seed 0"]) == 1 + 2 + 20
    assert page.tables["HBR weights on Toy, seed 0"][1] == [
        *("u1", "1", "i1", "2008-01-11", "0.5", "1", "0.7500")
    ]
    assert "Toy: user u1, 2 behaviours" in text


def test_the_same_files_give_the_same_bytes(page, tmp_path):
    folder = write_study(tmp_path / "study")
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    report_on(folder, out=first)
    report_on(folder, out=second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.html", "2.html", "study"]


HOSTILE = '<script>alert("x")</script>&amp; $\\frac{a}{b}$ \'"><b id="figure_1">'


def test_ids_and_names_from_the_data_are_text(tmp_path):
    folder = tmp_path / "study"
    page = report_on(write_study(folder, data=HOSTILE, preset=HOSTILE, user=HOSTILE, item=HOSTILE))
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert "b" not in tags
    assert HOSTILE in page.sections["histories"]
    assert HOSTILE in page.sections["results"]
    assert HOSTILE in page.sections["ranks"]  # a picture alone
    assert any(HOSTILE in alternative for _, alternative, _ in page.pictures)
    assert page.tables[f"HBR weights on {HOSTILE} (preset {HOSTILE}), seed 0"][1][2] == HOSTILE


def test_one_seed_has_no_spread(tmp_path):
    nan = float("nan")
    page = report_on(write_study(tmp_path / "study", seeds=(4,), p_seeds=nan))
    rows = page.table("Test split of Toy, protocol paper")
    assert rows["SASRec"]["N@5"].split("\n")[0] == digits(value_of(PLAIN, 4, "ndcg@5"))
    assert "p not defined seeds" in plain(rows["gain over SASRec"]["N@10"])
    assert "(p not defined over 1 seed, p < .001 over 60 users)" in plain(page.sections["summary"])
    assert "in 1 with p < .05" in plain(page.sections["summary"])  # over users
    assert "nan" not in page.source.lower().replace("nannot", "")


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("results", ["summary", "results", "ablation", "encoders"]),
        ("comparisons", ["summary", "encoders"]),
        ("curves", ["training"]),
        ("popularity", ["popularity"]),
        ("ranks", ["ranks"]),
        ("hbr", ["histories"]),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(name, anchors, tmp_path):
    page = report_on(write_study(tmp_path / "study", without=[name]))
    found = [anchor for anchor in ANCHORS if "Made by pdrec-fast study" in page.sections[anchor]]
    assert found == anchors
    assert f"--out {tmp_path / 'study'}" in page.sections[found[-1]]


@pytest.mark.parametrize(
    ("finished", "shown"),
    [
        ("", "not yet"),
        (None, "not recorded"),
        ("2026-05-04T23:30:00+02:00", "2026-05-04 21:30 UTC"),
        ("in May", "in May"),
    ],
)
def test_when_a_study_finished(tmp_path, finished, shown):
    folder = write_study(tmp_path / "study", seeds=(0,))
    study = json.loads((folder / "study.json").read_text())
    del study["finished"]
    if finished is not None:
        study["finished"] = finished
    (folder / "study.json").write_text(json.dumps(study))
    assert report_on(folder).table("Studies")["finished"] == {"study": shown}


def test_a_study_without_any_row(tmp_path):
    files = ("results", "comparisons", "curves", "ranks", "hbr")
    page = report_on(write_study(tmp_path / "study", without=files))
    assert list(page.sections) == ANCHORS
    assert page.table("Studies")["finished"] == {"study": "2026-05-04 23:30 UTC"}
    assert page.pictures == []


def test_nothing_is_drawn_as_the_encoder_alone_where_that_is_missing(tmp_path):
    dashed = re.compile(r"stroke-dasharray")
    for name, variants in (("with", VARIANTS), ("without", [v for v in VARIANTS if v != PLAIN])):
        page = report_on(write_study(tmp_path / name, variants=variants))
        (picture,) = (svg for section, _, svg in page.pictures if section == "ablation")
        assert bool(dashed.search(picture)) == (name == "with")


def test_without_an_ablation_the_section_says_so(tmp_path):
    variants = [PLAIN, GUIDED]
    page = report_on(write_study(tmp_path / "study", variants=variants))
    assert "pdrec-fast study ablation --data toy.inter" in page.sections["ablation"]
    assert "No single modules and steps for Toy." in page.sections["ablation"]
    assert "Made by" not in page.sections["encoders"]


def test_other_encoders_data_and_timestamps(tmp_path):
    variants = [("mine", "none", ""), ("mine", "nns", "ti-diffrec"), *VARIANTS[:2]]
    folder = write_study(tmp_path / "study", data="a-to-b", preset="none", variants=variants)
    hbr = folder / "hbr.csv"
    hbr.write_text(re.sub(r"120\d{7}\.0", "nan", hbr.read_text()))
    page = report_on(folder)
    assert "mine + NNS" in page.table("Every variant on the test split of a → b, protocol paper")
    assert page.tables["HBR weights on a → b, seed 0"][1][3] == ""
    assert "in random order" not in page.sections["ranks"]  # not known how many are the target's


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for name in ("toy", "book"):
        (tmp_path / name).mkdir()
    toy = write_study(tmp_path / "toy" / "study")
    book = write_study(tmp_path / "book" / "study", data="book", preset="book", seeds=(0, 1))
    seeds = report_on(toy, book).table("Studies")["seeds"]
    assert seeds == {"toy/study": "0, 1, 2", "book/study": "0, 1"}


def test_two_directories_become_one_page(tmp_path):
    toy = write_study(tmp_path / "one")
    book = write_study(tmp_path / "two", data="book", preset="book", seeds=(0, 1))
    page = report_on(toy, book)
    assert set(page.table("Data sets")) == {"Toy", "Book"}
    assert page.table("Studies")["seeds"] == {"one": "0, 1, 2", "two": "0, 1"}
    assert page.table("Test split of Book, protocol paper")["SASRec"]
    assert page.table("Test split of Toy, protocol paper")["SASRec"]
    assert "<title>PDRec: Toy, Book</title>" in page.source


def test_the_command(tmp_path):
    folder, out = write_study(tmp_path / "study"), tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f"written to {out}"
    assert list(Page(out.read_text()).sections) == ANCHORS


@pytest.mark.parametrize("name", ["matplotlib", "jinja2", "pandas"])
def test_without_the_extra_it_says_what_to_install(name, tmp_path, monkeypatch):
    folder = write_study(tmp_path / "study")
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'pdrec_fast\[studies\]'"):
        write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
