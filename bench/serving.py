"""Load on ``examples/serve.py``: latency and requests a second, by how many ask at once.

    python -m bench.serving RUN/model --concurrency 1,4,16,64 --seconds 10 --out serving.jsonl

The service is started on a free port and asked for the histories of the model's own users, each
client sending its next request when it has its answer. Clients are threads of this process with a
connection each: on a machine with few cores they take time from the service.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU

SERVICE = Path(__file__).resolve().parents[1] / "examples" / "serve.py"
START_S = 120.0


@dataclass(frozen=True)
class Service:
    """A running one."""

    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def service(model: Path, options: Sequence[str]) -> Iterator[Service]:
    """The service of a saved model or run."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    command = [sys.executable, str(SERVICE), str(model), "--port", str(port), *options]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                ask(HTTPConnection("127.0.0.1", port), "GET", "/health")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the service did not start: {command}") from None
                time.sleep(0.1)
        yield Service(port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def ask(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> Any:
    """The JSON of an answer."""
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {text.decode()}")
    return json.loads(text)


def load(port: int, bodies: Sequence[bytes], n_clients: int, seconds: float) -> dict[str, Any]:
    """Figures of ``n_clients`` that ask for so long, one request after the other."""
    latencies: list[list[float]] = [[] for _ in range(n_clients)]
    failures: list[BaseException] = []
    stop = threading.Event()

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            at = number
            while not stop.is_set():
                began = time.perf_counter()
                ask(connection, "POST", "/recommend", bodies[at % len(bodies)])
                latencies[number].append(time.perf_counter() - began)
                at += n_clients
        except BaseException as error:
            failures.append(error)

    before = ask(HTTPConnection("127.0.0.1", port), "GET", "/health")
    clients = [threading.Thread(target=client, args=(n,)) for n in range(n_clients)]
    began = time.perf_counter()
    for each in clients:
        each.start()
    time.sleep(seconds)
    stop.set()
    for each in clients:
        each.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    after = ask(HTTPConnection("127.0.0.1", port), "GET", "/health")  # an idle one is closed
    every = np.concatenate([np.array(each) for each in latencies])
    return {
        "clients": n_clients,
        "requests": len(every),
        "requests_per_s": round(len(every) / took, 1),
        "p50_ms": round(1e3 * float(np.percentile(every, 50)), 2),
        "p99_ms": round(1e3 * float(np.percentile(every, 99)), 2),
        "requests_per_batch": round(
            (after["requests"] - before["requests"]) / (after["batches"] - before["batches"]), 2
        ),
    }


def bodies_of(model: Path, k: int, n_users: int = 1000) -> list[bytes]:
    """Requests for the histories of a sample of the model's users."""
    data = pf.PDRec.load(model / "model" if (model / "run.json").exists() else model).data
    assert data is not None
    chosen = np.random.default_rng(0).permutation(data.n_users)[:n_users]
    rows = (data.items[data.indptr[u] : data.indptr[u + 1]] for u in chosen)
    return [json.dumps({"history": data.item_ids[row].tolist(), "k": k}).encode() for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("model", type=Path, help="what PDRec.save wrote, or a run's directory")
    parser.add_argument("--concurrency", default="1,4,16,64", help="numbers of clients")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--wait-ms", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="JSON lines are added here")
    options = parser.parse_args(arguments)
    settings = [f"--batch-size={options.batch_size}", f"--wait-ms={options.wait_ms}"]
    bodies = bodies_of(options.model, options.k)
    about = {"model": str(options.model.name), "k": options.k, "batch_size": options.batch_size}
    about |= {"wait_ms": options.wait_ms, "threads": options.threads}
    with service(options.model, [*settings, f"--threads={options.threads}"]) as running:
        port = running.port
        load(port, bodies, 4, 1.0)  # the first calls prepare what the others share
        for n_clients in (int(n) for n in options.concurrency.split(",")):
            record = about | load(port, bodies, n_clients, options.seconds)
            print(record, flush=True)
            if options.out is not None:
                line = record | {"environment": environment(options.threads, CPU)}
                with open(options.out, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
