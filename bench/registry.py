"""What can be measured: operations, their implementations, their sizes and their floors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

Kind = Literal["kernel", "stage"]
Make = Callable[..., "Case"]


@dataclass(frozen=True)
class Floor:
    """The least that any implementation must do, which the machine's rates turn into seconds.

    Attributes:
        bytes: to read and write at least once.
        flops: of the matrix products that cannot be avoided, 2 for each multiply-add.
        dtype: of those products, ``"fp32"`` or ``"bf16"``.
    """

    bytes: float = 0.0
    flops: float = 0.0
    dtype: str = "fp32"


@dataclass(frozen=True)
class Implementation:
    """One way to do an operation.

    Attributes:
        prepare: makes, untimed, the call that is timed.
        result: what is compared with the reference; None compares what the call returns.
        comparable: False where there is nothing to compare, as with a baseline that does only a
            part of the work or draws other random numbers; ``note`` says which.
        share: part of the operation that one call does; its time is divided by it.
        note: for the reader of the row.
        timed: False for what is there to be checked against, too slow to wait for.
        slow_start: takes seconds to prepare, so that it is left out at the small sizes of a GPU.
    """

    prepare: Callable[[], Callable[[], Any]]
    result: Callable[[], Any] | None = None
    comparable: bool = True
    share: float = 1.0
    note: str = ""
    timed: bool = True
    slow_start: bool = False


def call(function: Callable[..., Any], *args: Any, **keywords: Any) -> Implementation:
    """The implementation that calls ``function`` with these arguments."""
    return Implementation(lambda: partial(function, *args, **keywords))


@dataclass(frozen=True)
class Case:
    """An operation at one size.

    Attributes:
        implementations: by name; the first is what the package does, the one that growth curves
            and ``compare`` look at.
        reference: name of the one that all are checked against.
        floor: of the whole operation.
        rtol, atol: of the check; 0 means bit for bit.
        by_norm: check ``|got - expected| <= rtol |expected|`` of whole tensors, as where products
            are rounded to half precision.
        baseline: name of the one that ratios refer to; empty for the reference.
        sizes: further sizes for the row, such as the number of records.
        data: where the data came from, if there were any.
    """

    implementations: Mapping[str, Implementation]
    reference: str
    floor: Floor
    rtol: float = 0.0
    atol: float = 0.0
    sizes: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    by_norm: bool = False
    baseline: str = ""

    @property
    def subject(self) -> str:
        return next(iter(self.implementations))

    @property
    def ratios_to(self) -> str:
        return self.baseline or self.reference


@dataclass(frozen=True)
class Growth:
    """A curve: the operation's subject at several values of one size, other sizes ``fixed``."""

    axis: str
    points: tuple[int, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """Something to measure.

    Attributes:
        name: unique.
        kind: a single kernel, or a whole stage of training or inference.
        make: the case at given sizes.
        small: at which the implementations are always checked first.
        sizes: at which it is timed on a CPU; without any it is not.
        gpu_sizes: at which it is timed on a GPU, the most telling first; without any it is not.
        check_at_size: whether they are also checked at ``sizes``, where that is affordable.
        growth: curves.
        threads: number of threads, where it is not the run's.
    """

    name: str
    kind: Kind
    make: Make
    small: Mapping[str, Any]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    gpu_sizes: tuple[Mapping[str, Any], ...] = ()
    check_at_size: bool = False
    growth: tuple[Growth, ...] = ()
    threads: int | None = None


OPERATIONS: dict[str, Operation] = {}
FACTS: dict[str, Callable[[], list[dict[str, Any]]]] = {}
BROKEN: dict[str, str] = {}  # files of bench/ops and bench/stages that could not be imported -> why


def operation(name: str, kind: Kind, **fields: Any) -> Callable[[Make], Make]:
    """Register the decorated function as the ``make`` of an ``Operation``."""

    def register(make: Make) -> Make:
        _refuse_taken(name)
        OPERATIONS[name] = Operation(name, kind, make, **fields)
        return make

    return register


def fact(name: str) -> Callable[[Callable[[], list[dict[str, Any]]]], Any]:
    """Register a figure that is no time: a function that returns its rows (value, unit, ...)."""

    def register(rows: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
        _refuse_taken(name)
        FACTS[name] = rows
        return rows

    return register


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that nothing is registered under, or could have been."""
    known = [*OPERATIONS, *FACTS]
    unknown = [name for name in names if name not in known]
    if unknown and not BROKEN:
        raise ValueError(f"no operation named {', '.join(unknown)}; choose among {known}")


def _refuse_taken(name: str) -> None:
    if name in OPERATIONS or name in FACTS:
        raise ValueError(f"an operation named {name!r} is registered already")
