"""Former names of keyword arguments, which go on working with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept keyword arguments under their former names too, with a DeprecationWarning.

    Args:
        names: former name = present name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> R:
            for former in names.keys() & kwargs.keys():
                if names[former] in kwargs:
                    raise TypeError(
                        f"{function.__qualname__}() got both {names[former]}= and {former}=, its "
                        "former name"
                    )
                warnings.warn(
                    f"{function.__qualname__}({former}=...) is called {names[former]}= now",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[names[former]] = kwargs.pop(former)
            return function(*args, **kwargs)

        return accepting

    return decorate
