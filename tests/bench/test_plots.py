"""Figures, drawn from the document alone."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench import plots

pytest.importorskip("matplotlib")


def row(**fields):
    base = {
        "op": "op",
        "kind": "kernel",
        "impl": "ours",
        "role": "subject",
        "sizes": {"n": 1},
        "median": 1.0,
        "ratio_to_reference": 0.5,
        "ratio_to_floor": 3.0,
        "peak_memory": 10**6,
    }
    return base | fields


@pytest.fixture
def document():
    bars = [row(), row(impl="plain", role="reference", ratio_to_reference=1.0)]
    # Time as the square of n, memory in proportion to it; not in order of size.
    curve = [
        row(axis="n", sizes={"n": n}, median=3e-6 * n**2, peak_memory=1000 * n)
        for n in (40, 10, 80, 20)
    ]
    return {"rows": [*bars, *curve, {"op": "share", "kind": "fact", "value": 0.5}]}


def texts(path):
    assert path.stat().st_size > 1000
    return path.read_text(), ElementTree.parse(path).getroot().tag


def test_figures_are_written(document, tmp_path, capsys):
    written = plots.draw(document, tmp_path / "figures")
    assert [path.name for path in written] == ["relative.svg", "floor.svg", "growth-op-n.svg"]
    for path in written:
        text, tag = texts(path)
        assert tag.endswith("svg")
        assert "<path" in text
    printed = capsys.readouterr().out
    assert "op: seconds grows as n^2.00" in printed
    assert "op: peak memory grows as n^1.00" in printed


def test_curves_are_in_order_of_size(document):
    (rows,) = plots.growth_curves(document).values()
    assert [each["sizes"]["n"] for each in rows] == [10, 20, 40, 80]


def test_slope_by_hand():
    exponent, factor = plots.slope([1, 2, 4], [3, 12, 48])
    assert exponent == pytest.approx(2)
    assert factor == pytest.approx(3)
    # (0, 0), (1, 2), (2, 1) in logarithms of base e: slope 1/2, intercept 1/2.
    e = 2.718281828459045
    exponent, factor = plots.slope([1, e, e**2], [1, e**2, e])
    assert exponent == pytest.approx(0.5)
    assert factor == pytest.approx(e**0.5)


@pytest.mark.parametrize(("x", "y"), [([2, 2], [1, 3]), ([1], [1]), ([1, 2], [0, 1])])
def test_no_slope(x, y):
    with pytest.raises(ValueError, match="a slope needs two different x and positive values"):
        plots.slope(x, y)


def test_memory_that_was_not_measured_leaves_its_panel_empty(document, tmp_path, capsys):
    for each in document["rows"]:
        each["peak_memory"] = None
    assert len(plots.draw(document, tmp_path)) == 3
    assert "peak memory" not in capsys.readouterr().out


def test_rows_without_a_reference_get_no_bar(document, tmp_path):
    document["rows"] = [row(ratio_to_reference=None)]
    assert [path.name for path in plots.draw(document, tmp_path)] == ["floor.svg"]


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="hold no times to draw"):
        plots.draw({"rows": []}, tmp_path / "figures")
