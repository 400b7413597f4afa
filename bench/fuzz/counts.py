"""How often each target ran, and what broke, with this code: kept so that a campaign goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pdrec_fast.files import write_json

_ROOT = Path(__file__).parents[2]


@dataclass
class Count:
    """Of one target.

    Attributes:
        seconds: how long its processes ran.
        broken: what broke, by the file that has the input.
    """

    executions: int = 0
    seconds: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)


class Counts:
    """The counts in ``file``, by the revision of the code and by target; safe for threads."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self.revision = revision()
        self._all = json.loads(file.read_text()) if file.exists() else {}
        found = self._all.get(self.revision, {})
        self._now = {name: Count(**values) for name, values in found.items()}

    def __getitem__(self, name: str) -> Count:
        return self._now.get(name, Count())

    def add(self, name: str, more: Count) -> None:
        """Add what one process did, and write the file."""
        with self._lock:
            old = self[name]
            self._now[name] = Count(
                old.executions + more.executions,
                round(old.seconds + more.seconds, 1),
                old.broken | more.broken,
            )
            self._all[self.revision] = {name: asdict(count) for name, count in self._now.items()}
            write_json(self._file, self._all)

    def with_other_code(self) -> int:
        """Executions that are counted for other revisions."""
        others = (found for revision, found in self._all.items() if revision != self.revision)
        return sum(count["executions"] for found in others for count in found.values())

    def table(self, names: list[str]) -> str:
        """A line for each target, and one for all."""
        lines = []
        for name in names:
            count = self[name]
            rate = count.executions / count.seconds if count.seconds else 0.0
            lines.append(
                f"{name:18}{count.executions:>11,} executions{rate:>8,.0f}/s"
                f"{len(count.broken):>5} broken"
            )
        n_broken = sum(len(self[name].broken) for name in names)
        total = sum(self[name].executions for name in names)
        lines.append(f"{'in all':18}{total:>11,} executions{'':10}{n_broken:>5} broken")
        lines.append(f"code {self.revision}; with other code {self.with_other_code():,}")
        return "\n".join(lines)


def revision() -> str:
    """12 hexadecimal digits that change with the package's Python and with the targets."""
    digest = hashlib.sha256()
    files = [*(_ROOT / "pdrec_fast").rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    for file in sorted(files):
        digest.update(str(file.relative_to(_ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]
