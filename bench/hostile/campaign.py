"""Bad and good clients of one service at once, and what came of both."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from bench.hostile.cases import CASES
from bench.hostile.talk import HOST, RefusedError, connected, request, status
from bench.serving import Service, ask, service
from bench.soak.readings import held_by

GOOD_CLIENTS, BAD_CLIENTS = 4, 8
THINKS = 0.05  # seconds that a good client takes between an answer and its next request
SETTLED_MIB = 16.0  # by which a service's memory may grow after the first half of the time


class Good(threading.Thread):
    """A client that asks, reads and waits a little, and keeps its connection where it can."""

    def __init__(self, port: int, bodies: Sequence[bytes], first: int) -> None:
        super().__init__(daemon=True)
        self.port, self.bodies, self.at = port, bodies, first
        self.seconds: list[float] = []
        self.failures: Counter[str] = Counter()
        self.reconnected = 0
        self.done = threading.Event()

    def run(self) -> None:
        connection = HTTPConnection(HOST, self.port, timeout=60)
        while not self.done.is_set():
            began = time.perf_counter()
            try:
                try:
                    ask(connection, "POST", "/recommend", self.body())
                except (ConnectionError, HTTPException):  # it had to make room, or was idle
                    self.reconnected += 1
                    connection.close()
                    ask(connection, "POST", "/recommend", self.body())
                self.seconds.append(time.perf_counter() - began)
            except Exception as error:
                self.failures[f"{type(error).__name__}: {error}"] += 1
                connection.close()
            self.at += GOOD_CLIENTS
            self.done.wait(THINKS)
        connection.close()

    def body(self) -> bytes:
        return self.bodies[self.at % len(self.bodies)]


def good_clients(port: int, bodies: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """What they get in so many seconds."""
    clients = [Good(port, bodies, first) for first in range(GOOD_CLIENTS)]
    for each in clients:
        each.start()
    time.sleep(seconds)
    for each in clients:
        each.done.set()
    for each in clients:
        each.join()
    took = np.concatenate([each.seconds for each in clients]) * 1e3
    return {
        "requests": len(took),
        "p50_ms": round(float(np.percentile(took, 50)), 1),
        "p99_ms": round(float(np.percentile(took, 99)), 1),
        "slowest_ms": round(float(took.max()), 1),
        "reconnected": sum(each.reconnected for each in clients),
        "failures": dict(sum((each.failures for each in clients), Counter())),
    }


class Campaign:
    """Bad clients, again and again in random order.

    Args:
        timeout: the service's ``--timeout`` in seconds.
        slack: seconds that an end may come later than the service's times say.
    """

    def __init__(self, port: int, timeout: float, slack: float, seed: int) -> None:
        self.port, self.timeout, self.slack, self.seed = port, timeout, slack, seed
        self.ends: dict[str, Counter[str]] = {name: Counter() for name in CASES}
        self.slowest = dict.fromkeys(CASES, 0.0)
        self.faults: Counter[str] = Counter()
        self.lock = threading.Lock()

    def run(self, until: float) -> None:
        """Every case at least once, and more until this time of the monotonic clock."""
        workers = [threading.Thread(target=self._work, args=(n, until)) for n in range(BAD_CLIENTS)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()

    def _work(self, number: int, until: float) -> None:
        rng = random.Random(1000 * self.seed + number)
        names = list(CASES)
        own = names[number::BAD_CLIENTS]  # together they are all
        rng.shuffle(own)
        for name in own:
            self._one(name, rng)
        while time.monotonic() < until:
            self._one(rng.choice(names), rng)

    def _one(self, name: str, rng: random.Random) -> None:
        case = CASES[name]
        most = case.waits * self.timeout + self.slack
        began = time.monotonic()
        try:
            end = case.run(self.port, 2 * self.timeout + self.slack, rng)
        except (OSError, RefusedError) as error:
            end = type(error).__name__
        took = time.monotonic() - began
        with self.lock:
            self.ends[name][end] += 1
            self.slowest[name] = max(self.slowest[name], took)
            if end not in (*case.ends, "503"):
                self.faults[f"{name}: {end}"] += 1
            elif took > most:
                self.faults[f"{name}: {end} after more than {most:.0f} s"] += 1

    def rows(self) -> list[dict[str, Any]]:
        """By case: how often, how it ended, the slowest in seconds."""
        return [
            {
                "case": name,
                "times": sum(ends.values()),
                "ends": dict(ends.most_common()),
                "slowest_s": round(self.slowest[name], 2),
            }
            for name, ends in self.ends.items()
        ]


class Watch(threading.Thread):
    """What the service holds, every second or so."""

    def __init__(self, process: int, every: float) -> None:
        super().__init__(daemon=True)
        self.process, self.every = process, every
        self.readings: list[dict[str, int | float]] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(self.every):
            self.readings.append(held_by(self.process))

    def end(self) -> None:
        self.done.set()
        self.join()


def under_attack(
    running: Service,
    bodies: Sequence[bytes],
    seconds: float,
    timeout: float,
    slack: float,
    most_mib: float = SETTLED_MIB,
) -> dict[str, Any]:
    """Good clients alone, then beside bad ones; what each got, what the service held, faults."""
    alone = good_clients(running.port, bodies, max(2.0, seconds / 20))
    before = held_by(running.process.pid)
    campaign = Campaign(running.port, timeout, slack, seed=0)
    watch = Watch(running.process.pid, max(0.1, min(5.0, seconds / 100)))
    until = time.monotonic() + seconds
    bad = threading.Thread(target=campaign.run, args=(until,))
    watch.start()
    bad.start()
    beside: dict[str, Any] = {}
    good = threading.Thread(
        target=lambda: beside.update(good_clients(running.port, bodies, seconds))
    )
    good.start()
    for each in (bad, good):
        each.join()
    watch.end()
    time.sleep(timeout + 1)  # idle connections are closed
    after = held_by(running.process.pid)
    memory = [reading["private"] for reading in watch.readings]
    quarter = memory[len(memory) // 4 : len(memory) // 2]
    settled = float(np.median(quarter))
    faults = dict(campaign.faults)
    for why, count in beside["failures"].items():
        faults[f"a good client: {why}"] = count
    if after["private"] > settled + most_mib:
        faults[f"memory grew from {settled:.0f} to {after['private']:.0f} MiB"] = 1
    if after["descriptors"] > before["descriptors"]:
        faults[f"descriptors: {before['descriptors']} before, {after['descriptors']} after"] = 1
    return {
        "cases": campaign.rows(),
        "good clients alone": alone,
        "beside bad ones": beside,
        "private_mib": {
            "before": round(before["private"], 1),
            "second quarter": round(settled, 1),
            "after": round(after["private"], 1),
        },
        "descriptors": {
            "before": before["descriptors"],
            "most": max(reading["descriptors"] for reading in watch.readings),
            "after": after["descriptors"],
        },
        "faults": faults,
    }


def ended_in_the_middle(model: Path, body: bytes, n: int = 16) -> dict[str, Any]:
    """SIGTERM while requests wait for their batch: their statuses, the exit status, and faults."""
    options = ["--threads=1", "--wait-ms=3000", "--timeout=60"]
    with service(model, options) as running, ExitStack() as open_ones:
        clients = [open_ones.enter_context(connected(running.port, 60)) for _ in range(n)]
        for each in clients:
            each.sendall(request(body))
        asking = HTTPConnection(HOST, running.port)
        told = {"waiting": 0, "requests": 0}
        # The first of a batch does not wait in the queue; on a slow machine all may be answered.
        while told["waiting"] < n - 1 and told["requests"] < n:
            told = ask(asking, "GET", "/health")
        asking.close()
        running.process.send_signal(signal.SIGTERM)
        statuses = Counter(status(each) for each in clients)
        try:
            code: int | None = running.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            code = None
    faults = {}
    if statuses != {"200": n}:
        faults[f"SIGTERM: {n} requests got {dict(statuses)}"] = 1
    if code != 0:
        faults[f"SIGTERM: exit status {code}"] = 1
    return {"statuses": dict(statuses), "exit": code, "faults": faults}
