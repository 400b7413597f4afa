"""Imports every file of ``bench/ops`` and ``bench/stages``, which registers what they measure."""

from importlib import import_module
from pathlib import Path

from bench.registry import BROKEN

_HERE = Path(__file__).resolve().parent

for _path in sorted([*_HERE.glob("ops/*/*.py"), *_HERE.glob("stages/*.py")]):
    _name = ".".join(_path.relative_to(_HERE).with_suffix("").parts)
    try:
        import_module(f"bench.{_name}")
    except ImportError as _error:  # an older pdrec_fast, as in ``compare``, lacks newer operations
        BROKEN[_name] = f"{type(_error).__name__}: {_error}"
