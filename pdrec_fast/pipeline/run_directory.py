"""The directory of a run or search: whose it is, and what older versions wrote there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdrec_fast import settings_format
from pdrec_fast.diffusion import CodigemConfig, LatentConfig
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import differences, read_json, write_json, writing
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.guides import DIFFUSION
from pdrec_fast.pipeline.more_epochs import allow_more_epochs
from pdrec_fast.sole_user import LOCK, sole_user

SELECTION = "selection"  # the models that were tested, where the final ones take their place
LOG = "log.txt"  # may lie in a run's directory before the run does


@contextmanager
def reserved_directory(
    out: Path, kind: str, description: dict[str, Any], *, beside: str = ""
) -> Iterator[None]:
    """Mark ``out`` as that of one ``"run"`` or ``"search"``, or refuse if it is another's; within
    it no other process takes it.

    Args:
        kind: what lies there, described in ``<kind>.json``.
        beside: name of a file that may be there before.

    Raises:
        CheckpointError: something else lies there, a newer version wrote it, or another process is
            at work there.
        WriteError: it cannot be written to.
    """
    marker = out / f"{kind}.json"
    with writing(out):  # a name that is too long, or a folder that may not be entered
        if not marker.exists():
            # The last, where a process was killed before it had reserved anything.
            _check_free(out, kind, {beside, LOCK, f".{marker.name}.new"})
    with sole_user(out, kind):
        _mark(out, kind, description)
        yield


def _check_free(out: Path, kind: str, may_be_there: set[str]) -> None:
    if out.exists() and not (
        out.is_dir() and {each.name for each in out.iterdir()} <= may_be_there
    ):
        raise CheckpointError(
            f"{out}: exists and is no {kind} of pdrec-fast; use another directory"
        )


def _mark(out: Path, kind: str, description: dict[str, Any]) -> None:
    marker = out / f"{kind}.json"
    if marker.exists():
        try:
            found = with_current_defaults(read_json(marker), marker)
            grown = kind == "run" and allow_more_epochs(out, found, description)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CheckpointError(f"{marker}: damaged ({error}); use another --out") from None
        if found != description and not grown:
            unlike = ", ".join(differences(found, description))
            raise CheckpointError(
                f"{out}: holds a {kind} with other {unlike}; use another directory or delete it"
            )
        return
    write_json(marker, description)


def tested_models(out: Path) -> Path:
    """Where the models of a run lie that its figures are of: they have not seen the test."""
    return out / SELECTION if (out / SELECTION).is_dir() else out


def with_current_defaults(description: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a file says that holds the ``config`` of a run, with that as it is described today.

    Raises:
        CheckpointError: a newer version wrote it.
    """
    config = description["config"]
    encoder = config.get("encoder", RunConfig.encoder)
    known = encoder in (*ENCODERS, DIFFUSION)
    seed = config.get("diffusion", {}).get("seed", 0)  # one for all, where a preset gave them
    defaults = RunConfig(
        encoder=encoder if known else RunConfig.encoder,
        codigem=CodigemConfig(seed=seed),
        latent=LatentConfig(seed=seed),
    ).describe()
    return description | {"config": settings_format.with_current_defaults(config, defaults, file)}
