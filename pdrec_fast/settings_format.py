"""Settings as they are written to files, and how those of older versions are read.

Every description of settings (``run.json``, ``search.json``, metadata of models, identities of
checkpoints) says its ``format``:

- none: version 0.1.0 and before. Of an encoder's options only those that were set are there; a run
  of the diffusion model alone may name some.
- 1: all options of the encoder.

A setting that is added must default to what runs did before it. Older descriptions, which lack it,
then mean the same without a new format. Anything else, such as another name or meaning, takes a new
number and a step here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdrec_fast.errors import CheckpointError

FORMAT = 1


def with_current_defaults(
    found: Mapping[str, Any], defaults: Mapping[str, Any], where: object
) -> dict[str, Any]:
    """A description of settings, as today's version would have written it.

    Args:
        found: what a file says.
        defaults: today's description of default settings, JSON values; what ``found`` lacks is
            taken from it, what it has besides stays.
        where: names the file in errors.

    Raises:
        CheckpointError: a newer version wrote it.
    """
    number = found.get("format", 0)
    if number > FORMAT:
        raise CheckpointError(
            f"{where}: its settings have format {number}, this version reads up to {FORMAT}; a "
            "newer pdrec_fast wrote them: install that"
        )
    values = dict(found)
    if number < 1 and values.get("encoder") == "diffusion":
        values["encoder_options"] = None
    return _filled(values, defaults) | {"format": FORMAT}


def _filled(values: Any, defaults: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(defaults, Mapping)):
        return values
    return values | {
        key: _filled(values.get(key, default), default) for key, default in defaults.items()
    }
