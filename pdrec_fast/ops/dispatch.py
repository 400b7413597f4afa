"""The one place where an implementation is chosen.

An op offers a table ``{name: reason}`` in order of preference, where ``reason`` is None when that
implementation can run here and otherwise says why it cannot. ``impl="auto"`` takes the first that
runs and logs, once per op and reason, what it passed over. A named implementation never falls back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pdrec_fast.errors import BackendError

logger = logging.getLogger("pdrec_fast")
_logged: set[tuple[str, str, str]] = set()


def choose(op: str, impl: str, offered: Mapping[str, str | None]) -> str:
    """Return the name of the implementation of ``op`` to run.

    Args:
        op: name of the operation, for messages.
        impl: ``"auto"`` or one of the names in ``offered``.
        offered: implementation name -> None if it can run, else the reason why it cannot;
            fastest first.

    Raises:
        ValueError: ``impl`` is not a name this op knows.
        BackendError: ``impl`` is known but cannot run here.
    """
    usable = [name for name, reason in offered.items() if reason is None]
    if impl == "auto":
        for name, reason in offered.items():
            if reason is None:
                return name
            if (op, name, reason) not in _logged:
                _logged.add((op, name, reason))
                logger.warning("%s: not using impl=%r: %s", op, name, reason)
        raise BackendError(f"{op}: no implementation can run here: {dict(offered)}")
    if impl not in offered:
        raise ValueError(f"{op}: unknown impl={impl!r}; choose 'auto' or one of {list(offered)}")
    reason = offered[impl]
    if reason is not None:
        raise BackendError(f"{op}: impl={impl!r} cannot run: {reason}; usable here: {usable}")
    return impl
