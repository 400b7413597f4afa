"""``python -m bench run | gpu | plot | compare | accuracy``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import bench.catalogue  # noqa: F401  registers the operations
from bench import plots, report
from bench.accuracy import command as accuracy
from bench.compare import compare
from bench.gpu import Plan, gpu_report
from bench.registry import FACTS, OPERATIONS
from bench.runner import Settings, run

RESULTS = Path("bench/results/cpu.json")
FIGURES = Path("bench/results/figures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 1 where an operation failed, 2 where nothing ran."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    settings = Settings(options.threads, options.seconds, options.growth, options.ours)
    document = run(options.only, settings)
    if options.json:
        report.write(document, options.json)
    print(report.format_document(document))
    return 1 if document["failures"] else 0


def _gpu(options: argparse.Namespace) -> int:
    plan = Plan(
        tuple(options.only),
        options.tiny,
        options.budget,
        options.tests,
        options.seconds,
        options.build,
        options.json.resolve() if options.json else None,
    )
    return gpu_report(plan)


def _plot(options: argparse.Namespace) -> int:
    for path in plots.draw(report.read(options.json), options.out):
        print(path)
    return 0


def _compare(options: argparse.Namespace) -> int:
    settings = Settings(options.threads, options.seconds)
    text, complete = compare(
        options.base, options.only, settings, options.rounds, options.own_harness
    )
    print(text)
    return 0 if complete else 1


def _accuracy(options: argparse.Namespace) -> int:
    document = accuracy.measure(options.only, options.samples, options.seed)
    if options.json:
        report.write(document, options.json)
    print(accuracy.format_document(document))
    broken = accuracy.broken(document)
    for row in broken:
        print(f"beyond its limit: {row}", file=sys.stderr)
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the package against references, baselines and the machine's limits.",
        epilog=f"operations: {', '.join([*OPERATIONS, *FACTS])}",
    )
    commands = parser.add_subparsers(required=True, metavar="{run,gpu,plot,compare,accuracy}")

    command = commands.add_parser("run", help="check every implementation, then time it")
    _add_timing(command, seconds=4.0)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    command.add_argument(
        "--growth", action=argparse.BooleanOptionalAction, default=True, help="growth curves too"
    )
    command.add_argument(
        "--ours", action="store_true", help="only what the package does: no baselines, no curves"
    )
    command.set_defaults(command=_run)

    command = commands.add_parser("gpu", help="tests, kernels and stages on a GPU, in one report")
    _add_only(command)
    command.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that all runs (without a GPU: on)"
    )
    command.add_argument(
        "--budget",
        type=float,
        default=510.0,
        metavar="SECONDS",
        help="in all; no case begins after it (default 510)",
    )
    command.add_argument(
        "--tests",
        type=float,
        default=240.0,
        metavar="SECONDS",
        help="of the test suite, stopped then (default 240)",
    )
    command.add_argument(
        "--no-tests", dest="tests", action="store_const", const=0.0, help="leave the tests out"
    )
    _add_seconds(command, 1.0)
    command.add_argument(
        "--build", action="store_true", help="build the extension in this source tree first"
    )
    command.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results here, and figures beside it "
        "(default: bench/results/gpu-NAME.json; nothing when tiny)",
    )
    command.set_defaults(command=_gpu)

    command = commands.add_parser("plot", help="draw the results of a run")
    command.add_argument("--json", type=Path, metavar="FILE", default=RESULTS)
    command.add_argument("--out", type=Path, metavar="DIR", default=FIGURES)
    command.set_defaults(command=_plot)

    command = commands.add_parser("compare", help="against another revision of this repository")
    command.add_argument("--base", required=True, metavar="REV", help="the revision to compare to")
    command.add_argument(
        "--rounds", type=_positive, default=3, help="processes per version (default 3)"
    )
    command.add_argument(
        "--own-harness",
        action="store_true",
        help="measure the base by its own revision's harness, where modules have moved since",
    )
    _add_timing(command, seconds=2.0)
    command.set_defaults(command=_compare)

    command = commands.add_parser(
        "accuracy", help="the worst error of every operation on a CPU, over random inputs"
    )
    _add_only(command)
    command.add_argument(
        "--samples", type=_positive, default=200, help="random inputs of each (default 200)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the first (default 0)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    command.set_defaults(command=_accuracy)
    return parser


def _add_timing(command: argparse.ArgumentParser, seconds: float) -> None:
    _add_only(command)
    command.add_argument("--threads", type=_positive, default=2, help="of torch (default 2)")
    _add_seconds(command, seconds)


def _add_only(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these operations (default: all)"
    )


def _add_seconds(command: argparse.ArgumentParser, seconds: float) -> None:
    command.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        metavar="BUDGET",
        help=f"of timing per case, beyond the fewest rounds (default {seconds:g})",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
