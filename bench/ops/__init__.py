"""The registered operations, one file per stage; importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from bench.registry import BROKEN

for _module in iter_modules(__path__):
    try:
        import_module(f"{__name__}.{_module.name}")
    except ImportError as _error:  # an older pdrec_fast, as in ``compare``, lacks newer operations
        BROKEN[_module.name] = f"{type(_error).__name__}: {_error}"
