"""Gathers all that a machine without network needs: ``make wheelhouse`` calls it.

The folder holds one wheel for every requirement and a ``requirements.txt`` with their hashes. It is
made for the Python and the kind of machine that it is made with. There, without network::

    pip install --no-index --require-hashes --find-links FOLDER -r FOLDER/requirements.txt
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DIST = Path(__file__).resolve().parents[1] / "dist"


def own_wheel(folder: Path) -> Path:
    """The wheel of this package for the running Python; an index might know another by its name.

    Raises:
        SystemExit: there is none, or more than one.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    found = list(folder.glob(f"pdrec_fast-*-{tag}-*{platform.machine()}.whl"))
    if len(found) != 1:
        what = "several wheels" if found else "no wheel"
        raise SystemExit(f"{folder}: {what} of pdrec_fast for {tag}; empty it, then: make wheels")
    return found[0]


def gather(requirements: Sequence[str], out: Path, options: Sequence[str] = ()) -> None:
    """Download wheels of the requirements and of all that they need, write their hashes, and let
    pip verify them.

    Args:
        requirements: as pip takes them: names with versions, or paths of wheels with extras.
        out: the folder; what it held before must be of the same versions.
        options: of ``pip download``, such as ``--index-url``.

    Raises:
        SystemExit: two versions of a distribution lie in the folder.
        CalledProcessError: pip failed, or would not install by the hashes, and has said why.
    """
    out.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--quiet")
    subprocess.run([*pip, "--dest", str(out), *options, *requirements], check=True)
    (out / "requirements.txt").write_text(pinned(out))
    verify(out)


def verify(folder: Path) -> None:
    """Ask pip whether it would install all of the folder by its hashes, without an index.

    Raises:
        CalledProcessError: it would not, and has said why.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
            *("--no-index", "--require-hashes", "--quiet", "--find-links", str(folder)),
            *("-r", str(folder / "requirements.txt")),
        ],
        check=True,
    )


def pinned(folder: Path) -> str:
    """The wheels of a folder as requirements with hashes, one a line."""
    lines: dict[str, str] = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if name.lower() in lines:
            raise SystemExit(f"{folder}: two wheels of {name}; empty the folder and try again")
        digest = _sha256(wheel)
        lines[name.lower()] = f"{name}=={version} --hash=sha256:{digest}\n"
    return "".join(lines.values())


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:  # torch alone may be a gigabyte
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extras", default="", help="of pdrec_fast, comma-separated")
    parser.add_argument("requirements", nargs="*", help="beside it, such as torch==2.13.0")
    given, options = parser.parse_known_args()
    wheel = f"{own_wheel(DIST)}[{given.extras}]"
    gather([wheel, *given.requirements], given.out, options)
    print(f"{given.out}: {len(list(given.out.glob('*.whl')))} wheels and requirements.txt")


if __name__ == "__main__":
    main()
