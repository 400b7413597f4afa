"""The document that a run writes: reading, writing and printing it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.runner import FORMAT

# What older results call an operation.
_RENAMED = {"selection": "select_unobserved", "projected_selection": "select_projected"}


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write the document as JSON, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read what ``write`` wrote.

    Raises:
        ValueError: no such file, no such document, or one of another format.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; write one with python -m bench run --json {path}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not results of format {FORMAT}; run the benchmarks again")
    for row in document["rows"]:
        row["op"] = _RENAMED.get(row["op"], row["op"])
    return document


def timed_rows(document: Mapping[str, Any], *, growth: bool = False) -> list[dict[str, Any]]:
    """Rows with times: those of growth curves, or all others."""
    return [row for row in document["rows"] if "median" in row and ("axis" in row) == growth]


def format_document(document: Mapping[str, Any]) -> str:
    """Everything a document says, as text."""
    environment = ", ".join(
        f"{name} {value}" for name, value in document["environment"].items() if value is not None
    )
    facts = [row for row in document["rows"] if row["kind"] == "fact"]
    parts = [
        environment,
        "\n".join(_rate(rate) for rate in document["rates"]),
        table(_HEADER, [_cells(row) for row in timed_rows(document)]),
        table(_HEADER, [_cells(row) for row in timed_rows(document, growth=True)]),
        "\n".join(
            f"{row['op']}: {row['value']:.3g} {row['unit']} ({row['data']})" for row in facts
        ),
        "\n".join(
            "{op}: {impl} cannot run here: {reason}".format(**u) for u in document["unavailable"]
        ),
        "\n".join(
            f"{skipped['op']} left out at {describe_sizes(skipped['sizes'])}: {skipped['reason']}"
            for skipped in document.get("skipped", [])
        ),
        "\n".join(f"FAILED {op}: {why}" for op, why in document["failures"].items()),
    ]
    return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, the first two to the left; empty without rows."""
    lines = [list(header), *map(list, rows)]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def seconds(value: float | None) -> str:
    """A time with its unit, three digits."""
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)))


def size(value: float | None) -> str:
    """An amount of memory with its unit, three digits."""
    return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def ratio(value: float | None) -> str:
    """A ratio, three digits."""
    return "-" if value is None else f"{value:.3g}x"


def percent(value: float | None) -> str:
    """A share, three digits."""
    return f"{100 * value:.3g} %" if value else "-"


def describe_sizes(sizes: Mapping[str, Any]) -> str:
    """Sizes in one cell."""
    return " ".join(f"{name}={value}" for name, value in sizes.items())


_HEADER = (
    "operation",
    "implementation",
    "threads",
    "n",
    "median",
    "iqr",
    "min",
    "vs reference",
    "work",
    "floor",
    "vs floor",
    "of copy",
    "of matmul",
    "peak memory",
    "sizes",
)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["op"],
        row["impl"] + (" *" if row["role"] == "reference" else ""),
        str(row["threads"]),
        str(row["n"]),
        seconds(row["median"]),
        seconds(row["iqr"]),
        seconds(row["min"]),
        ratio(row["ratio_to_reference"]),
        _work(row["floor"]),
        "{} {}".format(seconds(row["floor"]["seconds"]), row["floor"]["binding"]),
        ratio(row["ratio_to_floor"]),
        percent(row["shares"]["copy"]),
        percent(row["shares"]["matmul"]),
        size(row["peak_memory"]),
        describe_sizes(row["sizes"]),
    ]


def _work(floor: Mapping[str, Any]) -> str:
    """Bytes and products that the floor counts."""
    parts = [size(floor["bytes"])] if floor["bytes"] else []
    if floor["flops"]:
        parts.append(f"{floor['flops'] / 1e9:.3g} GFLOP {floor['dtype']}")
    return ", ".join(parts)


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["rate"] == "copy":
        speed = f"{rate['bytes_per_second'] / 1e9:.3g} GB/s at {size(rate['footprint'])}"
    else:
        speed = f"{rate['flops_per_second'] / 1e9:.4g} GFLOP/s {rate['dtype']}"
    return f"{rate['rate']}: {speed}, {rate['threads']} threads"


def _scaled(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    if value is None:
        return "-"
    for unit, factor in units:
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    unit, factor = units[-1]
    return f"{value / factor:.3g} {unit}"
