"""``make sanitize``: the extension's tests under AddressSanitizer with UndefinedBehaviorSanitizer,
and under ThreadSanitizer.

    python tests/sanitizers/run.py [--only address] [--jobs N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import NamedTuple

from build import ROOT, SANITIZERS, built, environment


class Part(NamedTuple):
    """Tests that one process runs.

    Attributes:
        sanitizer: one of SANITIZERS.
        own_threads: the extension starts threads of its own, all of whose waiting for each other
            a sanitizer sees, rather than running on torch's.
        arguments: of pytest.
    """

    sanitizer: str
    own_threads: bool
    arguments: tuple[str, ...]


# What torch compiles is not the extension's; "reference" is plain PyTorch.
_OPS = "tests/ops", "-k", "not compile and not opcheck and not reference]"
# ThreadSanitizer knows no threads that begin in a child forked from several: it stops with "dup
# thread with used id". AddressSanitizer runs those tests.
_THREADS = "tests/csrc", "--deselect", "tests/csrc/test_stress.py::test_forks_while_others_compute"
PARTS = (
    Part("address", False, ("tests/csrc",)),
    Part("address", False, _OPS),
    Part("thread", True, _THREADS),
    Part("thread", False, _THREADS),
)


def main() -> int:
    """Returns the exit status: 1 where a test failed or a sanitizer found something."""
    options = _parser().parse_args()
    failed = []
    for name in options.only:
        print(f"{name}: {built(name, options.jobs)}", flush=True)
        for part in PARTS:
            if part.sanitizer == name and _run(part, options.rounds) != 0:
                failed.append(part)
    for part in failed:
        print(f"failed: {part}", file=sys.stderr)
    return 1 if failed else 0


def _run(part: Part, rounds: int) -> int:
    print(
        f"{part.sanitizer}, own threads {part.own_threads}: {' '.join(part.arguments)}", flush=True
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    # A report goes to the standard error of the process, which pytest would take away with it.
    command += ["--import-mode=importlib", "--benchmark-skip", "--capture=sys", *part.arguments]
    variables = environment(part.sanitizer) | {
        "PDREC_OWN_THREADS": "1" if part.own_threads else "0",
        "PDREC_STRESS_ROUNDS": str(rounds),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Test the extension under sanitizers.")
    parser.add_argument("--only", nargs="+", choices=SANITIZERS, default=list(SANITIZERS))
    parser.add_argument("--jobs", type=int, default=1, help="of the build (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of the stress (default 5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
