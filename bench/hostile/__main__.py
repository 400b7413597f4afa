"""Bad clients of ``examples/serve.py``, good ones beside them, and its end by SIGTERM.

    python -m bench.hostile RUN --minutes 60 --out hostile.jsonl

The service is started on a free port of 127.0.0.1, with a model that is given or a small one of
generated data. Good clients ask it, first alone, then while bad ones do what ``bench/hostile/
cases.py`` says. The table shows how often each bad client came, how that ended, and how long the
slowest took. A fault is an end that is not allowed or comes too late, a good client without its
answer, memory or descriptors that grow, a request without an answer at SIGTERM or an exit status
other than 0; the exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pdrec_fast as pf
from bench.hostile.campaign import SETTLED_MIB, ended_in_the_middle, under_attack
from bench.machine import environment
from bench.serving import bodies_of, service
from bench.target import CPU

CONNECTIONS = 128  # of the service


def small_model(path: Path) -> None:
    """An encoder that two scorers guide."""
    split = pf.leave_one_out(pf.synthetic(1000, 1500))
    settings = {"modules": ("fusion",), "epochs": 2, "loss": "shared_softmax", "lr": 0.01}
    model = pf.PDRec("sasrec", encoder_options={"width": 32}, **settings)
    guides = {
        "diffusion": pf.DiffRec(epochs=2, hidden=(32,)).fit(split, progress=False),
        "linear": pf.LinearDenoiser().fit(split),
    }
    model.fit(split, guides=guides, progress=False)
    model.fusion = pf.Fusion(guides, {"diffusion": pf.Share(0.5), "linear": pf.Share(0.3)})
    model.save(path)


def attacked(
    model: Path, seconds: float, timeout: float, slack: float, most_mib: float = SETTLED_MIB
) -> dict[str, Any]:
    """Everything that is found of a model's service, ``faults`` of all of it; see ``Campaign`` and
    ``under_attack``."""
    bodies = bodies_of(model, k=10)
    options = ["--threads=1", f"--timeout={timeout}", f"--connections={CONNECTIONS}"]
    with service(model, options) as running:
        found = under_attack(running, bodies, seconds, timeout, slack, most_mib)
    end = ended_in_the_middle(model, bodies[0])
    faults = found.pop("faults") | end.pop("faults")
    return found | {"SIGTERM": end, "faults": faults}


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'client':34}{'times':>7}  {'slowest':>8}  ends"]
    for row in found["cases"]:
        ends = ", ".join(f"{end} {count}" for end, count in row["ends"].items())
        lines.append(f"{row['case']:34}{row['times']:>7}{row['slowest_s']:>8.2f} s  {ends}")
    for name, value in found.items():
        if name not in ("cases", "faults"):
            lines.append(f"{name}: {value}")
    lines += [f"FAULT {name} ({count})" for name, count in found["faults"].items()]
    return "\n".join([*lines, f"{len(found['faults'])} kinds of faults"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack, tell, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Path, nargs="?", help="what PDRec.save wrote, or a run")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--timeout", type=float, default=5.0, help="the service's, in seconds")
    parser.add_argument("--slack", type=float, default=3.0, help="seconds an end may come later")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a line of JSON is added here")
    options = parser.parse_args(arguments)
    given = 60 * options.minutes, options.timeout, options.slack
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "model"
        if options.model is None:
            small_model(model)
        found = attacked(model, *given)
    print(table(found))
    if options.out is not None:
        about = {"minutes": options.minutes, "timeout": options.timeout}
        line = about | found | {"environment": environment(1, CPU)}
        with open(options.out, "a", encoding="utf-8") as stream:
            print(json.dumps(line), file=stream)
    return int(bool(found["faults"]))


if __name__ == "__main__":
    raise SystemExit(main())
