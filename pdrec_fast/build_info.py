"""The C++ extension: whether it is here, and how it was built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from pdrec_fast.thread_pool import share_with

_INSTALL = "pip install --force-reinstall --no-deps ."

extension_problem: str | None = None
try:
    import pdrec_fast._C as extension  # noqa: N811
except ImportError as _error:
    extension = None  # type: ignore[assignment]
    _missing = isinstance(_error, ModuleNotFoundError)
    extension_problem = (
        f"the C++ extension pdrec_fast._C is not built: {_error}; "
        f"install a C++17 compiler, then run, in the source folder: {_INSTALL}"
        if _missing
        else f"the C++ extension pdrec_fast._C does not load: {_error}; build it again, in the "
        f"source folder: {_INSTALL}"
    )
else:
    share_with(extension)


def triton_problem(device_type: str) -> str | None:
    """Why Triton kernels cannot run on tensors of this device; None where they can."""
    if find_spec("triton") is None:
        return "Triton is not installed; it comes with torch for CUDA: pip install triton"
    # On "meta" nothing is computed: it takes the course that a GPU would.
    if device_type in ("cuda", "meta") or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return (
        f"Triton kernels run on a GPU and the tensors are on {device_type!r} (for tests, "
        "TRITON_INTERPRET=1 set before Python starts runs them on a CPU, very slowly)"
    )


# Torch 2.6 cannot trace a look for a module. What torch.compiler.assume_constant_result does, which
# would load the compiler at import.
triton_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
