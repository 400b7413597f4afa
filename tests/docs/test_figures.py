"""Tables of figures on the pages say what the files of results say."""

import json
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_worst_errors_of_every_operation():
    rows = json.loads((ROOT / "bench/results/accuracy.json").read_text())["rows"]
    worst = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        found = worst[row["op"], row["impl"]]
        of_gradient = row["output"].startswith("grad")
        found[of_gradient] = max(found[of_gradient], row["error"])
    expected = {
        (op, impl): [f"{error:.1e}" if error else "" for error in found]
        for (op, impl), found in worst.items()
        if any(found) and impl != "reference"
    }
    page = (ROOT / "docs/reliability.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| (\w+) \| (\S*) \| +(\S*) \|", page, re.MULTILINE)
    assert {(op, impl): [*errors] for op, impl, *errors in shown} == expected
