"""One target in a process of its own: it may end by an input, and takes only so much memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MEMORY = 6 << 30  # bytes beyond what the libraries take; a length in a file must not be believed
_WHOLE_EVERY = 8  # the dear checks are done for one of so many inputs
# What decides about an input. Not the whole package: numba compiles some of it as it is written.
_LED_BY = ("data", "fitting", "settings", "presets", "pipeline", "files", "errors")


def main(given: str) -> None:
    """Run a target, keep what breaks it in ``out``, and tell the counts in ``told``.

    Args:
        given: a JSON object of name, seed, seconds, executions (None for any number), seeded, out,
            folder (an empty one to work in), last and told (files).
    """
    options = json.loads(given)
    warnings.simplefilter("ignore")  # those that a check needs it collects itself
    logging.disable()
    if options["seeded"] or find_spec("atheris") is None:
        session = _session(options)
        executions, seconds = options["executions"], options["seconds"]
        session.run_seeded(options["seed"], executions, seconds)
        _tell(session, options, "seeded")
    else:
        _led(options)


def _session(options: dict[str, Any]) -> Any:
    import pyarrow

    from bench.fuzz import engine

    pyarrow.set_cpu_count(1)  # else most of the time threads wait for each other
    pyarrow.set_io_thread_count(1)
    target, last = engine.TARGETS[options["name"]], engine.Last(Path(options["last"]))
    target.seeds()
    _limit_memory()
    return engine.Session(target, Path(options["folder"]), last, _WHOLE_EVERY)


def _led(options: dict[str, Any]) -> None:
    """By atheris, until the time has passed or enough was run."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=[f"pdrec_fast.{part}" for part in _LED_BY]):
        from bench.fuzz.mutate import TOKENS

        session = _session(options)
    end = time.monotonic() + options["seconds"]
    most = options["executions"] or float("inf")

    def run(content: bytes) -> None:
        session.run(content)
        if time.monotonic() > end or session.executions >= most:
            _tell(session, options, "atheris")
            sys.stderr.flush()
            os._exit(0)

    out, name = Path(options["out"]), options["name"]
    corpus, words = out / f"{name}.corpus", out / f"{name}.words"
    corpus.mkdir(exist_ok=True)  # grows, and serves the next run
    for number, content in enumerate(session.target.seeds()):
        (corpus / str(number)).write_bytes(content)
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    words.write_text("".join(f'"{token}"\n' for token in escaped if len(token) < 200))
    arguments = ["-timeout=0", "-rss_limit_mb=0", "-max_len=200000", f"-seed={options['seed']}"]
    arguments += [f"-dict={words}", f"-artifact_prefix={out}/{name}-"]
    atheris.Setup([sys.argv[0], str(corpus), *arguments], run)
    atheris.Fuzz()


def _limit_memory() -> None:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return
    import resource

    pages = int(statistics.read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _tell(session: Any, options: dict[str, Any], way: str) -> None:
    kept = {}
    for message, content in session.broken.items():
        digest = hashlib.sha256(content).hexdigest()[:12]
        file = Path(options["out"]) / f"{options['name']}-{digest}"
        file.write_bytes(content)
        kept[str(file)] = message
    told = {"executions": session.executions, "by": way, "broken": kept}
    Path(options["told"]).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
