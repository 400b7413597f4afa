"""The C++ extension: whether it is here, and how it was built."""

from __future__ import annotations

from typing import Any

_INSTALL = "pip install --force-reinstall --no-deps ."

extension_problem: str | None = None
try:
    import pdrec_fast._C as extension  # noqa: N811
except ImportError as _error:
    extension = None  # type: ignore[assignment]
    extension_problem = (
        f"the C++ extension pdrec_fast._C is not built: {_error}; "
        f"install a C++17 compiler, then run, in the source folder: {_INSTALL}"
    )


def build_info() -> dict[str, Any]:
    """Describe this installation, for bug reports.

    Returns:
        ``version``: of the package. ``extension``: whether the C++ extension can be used;
        ``problem``: why not, or None. Where it can, also ``compiler``, ``build_type``,
        ``isas_built``, ``isas_runnable`` (on this processor) and ``isa`` (in use).
    """
    from pdrec_fast import __version__

    info = {
        "version": __version__,
        "extension": extension is not None,
        "problem": extension_problem,
    }
    if extension is not None:
        info |= extension.build_info()
    return info
