"""One target in a process of its own: it may end by an input, and takes only so much memory."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MEMORY = 6 << 30  # bytes beyond what the libraries take; a length in a file must not be believed
# What decides about an input. Not the whole package: numba compiles some of it as it is written.
_LED_BY = ("data", "fitting", "settings", "presets", "pipeline", "files", "errors")


def main(name: str, seconds: str, seed: str, out: str, seeded: str) -> None:
    """Run a target, keep what breaks it in ``out``, and tell the counts in ``NAME.json``."""
    if seeded == "True" or find_spec("atheris") is None:
        from bench.fuzz import engine

        session = engine.Session(engine.TARGETS[name], Path(out) / f"{name}.last")
        _limit_memory()
        session.run_seeded(int(seed), seconds=float(seconds))
        _tell(session, name, Path(out), "seeded")
    else:
        _led(name, float(seconds), int(seed), Path(out))


def _led(name: str, seconds: float, seed: int, out: Path) -> None:
    """By atheris, until the time has passed."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=[f"pdrec_fast.{part}" for part in _LED_BY]):
        from bench.fuzz import engine
        from bench.fuzz.mutate import TOKENS

    session = engine.Session(engine.TARGETS[name], out / f"{name}.last")
    end = time.monotonic() + seconds

    def run(content: bytes) -> None:
        session.run(content)
        if time.monotonic() > end:
            _tell(session, name, out, "atheris")
            sys.stderr.flush()
            os._exit(0)

    corpus, words = out / f"{name}.corpus", out / f"{name}.words"
    corpus.mkdir(exist_ok=True)  # grows, and serves the next run
    for number, content in enumerate(session.target.seeds()):
        (corpus / str(number)).write_bytes(content)
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    words.write_text("".join(f'"{token}"\n' for token in escaped if len(token) < 200))
    _limit_memory()
    options = ["-timeout=0", "-rss_limit_mb=0", "-max_len=200000", f"-seed={seed}"]
    options += [f"-dict={words}", f"-artifact_prefix={out}/{name}-"]
    atheris.Setup([sys.argv[0], str(corpus), *options], run)
    atheris.Fuzz()


def _limit_memory() -> None:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return
    import resource

    pages = int(statistics.read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _tell(session: Any, name: str, out: Path, way: str) -> None:
    kept = {}
    for message, content in session.broken.items():
        file = out / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
        file.write_bytes(content)
        kept[str(file)] = message
    told = {"executions": session.executions, "by": way, "broken": kept}
    (out / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
