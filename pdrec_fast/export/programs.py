"""Modules on padded ids as programs of other runtimes: torch.export (.pt2) and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pdrec_fast.errors import ExportError, MissingExtraError

ONNX_PACKAGES = ("onnx", "onnxscript")


def check_onnx() -> None:
    """Raises MissingExtraError where ONNX files cannot be written."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"ONNX files need {' and '.join(missing)}: pip install 'pdrec_fast[onnx]', or leave "
            "them out (onnx=False, on the command line --no-onnx)"
        )


@torch.no_grad()
def traced(module: nn.Module, reads_times: bool, what: str) -> torch.export.ExportedProgram:
    """The program of ``module(items[, times])`` for any number of histories of any length.

    Raises:
        ExportError: torch cannot trace it; ``what`` names it.
    """
    # Sizes that occur nowhere else, so that nothing is taken for equal that is not.
    items = torch.ones((3, 7), dtype=torch.int64)
    inputs = (items, torch.arange(7.0, dtype=torch.float64).expand(3, 7).clone())
    n_inputs = 2 if reads_times else 1
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        with _quiet():
            return torch.export.export(
                module.eval(), inputs[:n_inputs], dynamic_shapes=(shape,) * n_inputs, strict=False
            )
    except Exception as error:  # whatever a user's own code raises under tracing
        raise ExportError(
            f"torch.export cannot trace {what}: {type(error).__name__}: {_first_line(error)}"
        ) from error


@torch.no_grad()
def write_onnx(
    program: torch.export.ExportedProgram, path: Path, outputs: Sequence[str], reads_times: bool
) -> None:
    """Write the program as an ONNX file; weights beyond ONNX's 2 GB go to a file beside it.

    Raises:
        ExportError: ONNX lacks an operation of the program.
    """
    names = ["items", "times"] if reads_times else ["items"]
    try:
        with _quiet():
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=names, output_names=list(outputs)
            )
            assert converted is not None
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"{path.name}: ONNX cannot say what the model does ({_first_line(error)}); leave the "
            "ONNX files out (onnx=False, on the command line --no-onnx)"
        ) from error
    converted.save(str(path))


def forget_shapes(program: torch.export.ExportedProgram) -> None:
    """Break the circles in which torch (seen with 2.13) keeps what it traced for the life of the
    process: 3 MiB for each export.

    The shapes' environment holds tensors of the trace, whose sizes in C++ hold the environment; and
    methods of ``ShapeEnv`` have caches without a bound that hold every instance.
    """
    traced = [node.meta.get("val") for node in program.graph.nodes]
    modes = [value.fake_mode for value in traced if isinstance(value, FakeTensor)]
    for environment in {mode.shape_env for mode in modes if mode.shape_env is not None}:
        environment.tracked_fakes = None
        environment.fake_tensor_cache.clear()
    for name in dir(ShapeEnv):
        clear = getattr(getattr(ShapeEnv, name), "cache_clear", None)
        if clear is not None:
            clear()


def _first_line(error: BaseException) -> str:
    """What lies beneath it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
