"""The README's Python runs as it is printed."""

import csv
import re
from pathlib import Path

import pdrec_fast as pf

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    data = pf.synthetic(n_users=60, n_items=250, seed=0)
    with (tmp_path / "clicks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user, item, when in zip(data.record_users, data.items, data.timestamps, strict=True):
            writer.writerow([f"u{user}", f"i{item}", when])
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert "protocol: paper" in capsys.readouterr().out
    assert names["items"].shape == (2, 5)
    assert (tmp_path / "clicks-model" / "manifest.json").exists()
    assert names["model"].name == "LastItems+hbr+dpa+nns"
