"""Tables of figures on the pages say what the files of results say."""

import json
import re
from collections import defaultdict
from pathlib import Path

from bench.accuracy.command import worst_rows
from bench.accuracy.sample import GRADIENT

ROOT = Path(__file__).resolve().parents[2]


def test_the_worst_errors_of_every_operation():
    document = json.loads((ROOT / "bench/results/accuracy.json").read_text())
    expected = defaultdict(lambda: ["", ""])
    for row in worst_rows(document):
        if row["error"] and row["impl"] != "reference":
            expected[row["op"], row["impl"]][row["limit"] == GRADIENT] = f"{row['error']:.1e}"
    page = (ROOT / "docs/reliability.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| (\w+) \| (\S*) \| +(\S*) \|", page, re.MULTILINE)
    assert {(op, impl): [*errors] for op, impl, *errors in shown} == expected
