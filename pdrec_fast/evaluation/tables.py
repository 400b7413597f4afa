"""Text tables of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pdrec_fast.evaluation.protocols import PROTOCOLS, Results


def format_results(
    results: Mapping[str, Results],
    metrics: Sequence[str] = ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr", "auc"),
) -> str:
    """Text tables of several models' results, one for each protocol and split.

    Args:
        results: model name -> what ``evaluate`` returned.
        metrics: the columns.

    Returns:
        Tables of one row per model; the protocol stands in the title and at the head of each row.
    """
    tables = []
    settings = [(p, name) for result in results.values() for p in result for name in result[p]]
    for protocol, name in dict.fromkeys(settings):
        rows = [["protocol", "model", *metrics]]
        for model, result in results.items():
            values = result.get(protocol, {}).get(name)
            if values is not None:
                rows.append([protocol, model, *(f"{values[metric]:.4f}" for metric in metrics)])
        title = f"protocol: {protocol} ({PROTOCOLS[protocol]}), split: {name}"
        tables.append("\n".join([title, *_aligned(rows)]))
    return "\n\n".join(tables)


def format_sets(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Text tables of what several models reach of users' held-out sets, one for each split.

    Args:
        results: model name -> what ``evaluate_sets`` returned.
    """
    tables = []
    for name in dict.fromkeys(name for result in results.values() for name in result):
        metrics = list(next(result[name] for result in results.values() if name in result))
        rows = [["sets", "model", *metrics]]
        for model, result in results.items():
            if name in result:
                rows.append(["sets", model, *(f"{result[name][key]:.4f}" for key in metrics)])
        title = f"held-out sets of users vs all items not in the history, split: {name}"
        tables.append("\n".join([title, *_aligned(rows)]))
    return "\n\n".join(tables)


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
