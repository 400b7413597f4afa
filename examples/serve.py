"""A saved model behind HTTP: histories in, items out, requests that come together scored together.

    pip install 'pdrec_fast[serve]'
    python examples/serve.py RUN/model --port 8000
    curl -s localhost:8000/recommend -H 'content-type: application/json' \
        -d '{"history": [17, 4, 99], "k": 3}'

The path is what ``PDRec.save`` wrote, or the directory of a run. One process has one model and one
worker thread that calls it; more processes (behind a proxy, each with ``--threads 1``) use more
cores.

Clients are not trusted: sizes, times and numbers of connections are bounded (docs/reliability.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi import Request as HTTPRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

import pdrec_fast as pf

RawId = int | str
# What the model can tell apart; a fraction has 53 bits.
Time = Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(gt=-(2**53), lt=2**53)]
MOST_ERRORS, LONGEST_NAME = 10, 100  # that one answer tells of
MOST_BYTES = 2**20  # of a request's body
KEPT_BYTES = 2**18  # of answers that a client has not read; Linux keeps as many again


class Request(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    history: list[RawId] = Field(min_length=1, max_length=10_000)  # oldest first
    times: list[Time] | None = None  # one for each, ascending
    k: int = Field(10, ge=1, le=1000)
    exclude: list[RawId] = Field([], max_length=100_000)
    allow: list[RawId] | None = Field(None, max_length=100_000)  # the only items that may come
    filter_seen: bool = True


class Item(BaseModel):
    """One recommended item."""

    item: RawId
    score: float


class Response(BaseModel):
    """What it gets: the best items first, fewer than k where no more are left."""

    items: list[Item]
    unknown: int  # items of the history that the model does not know; they are left out
    popular: bool  # nothing is known of this person: the items with the most records


@dataclass
class Job:
    request: Request
    answer: asyncio.Future[Response]


class Batcher:
    """Collects requests for up to ``wait`` seconds, at most ``size``, and scores them together.

    Requests come from the event loop and go to one thread, so that the model is never called twice
    at a time and the loop stays free for others meanwhile.
    """

    def __init__(self, model: pf.PDRec, size: int, wait: float) -> None:
        self.model, self.size, self.wait = model, size, wait
        self.known = {str(name) for name in model.data.item_ids.tolist()}
        self.jobs: asyncio.Queue[Job | None] = asyncio.Queue(maxsize=64 * size)
        self.batches = self.requests = 0

    async def ask(self, request: Request) -> Response:
        job = Job(request, asyncio.get_running_loop().create_future())
        try:
            self.jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise HTTPException(503, "too many requests are waiting; try again") from None
        return await job.answer

    async def run(self) -> None:
        """Until ``stop``; what was asked before it is still answered."""
        while True:
            waiting = [await self.jobs.get()]
            if self.jobs.qsize() < self.size - 1 and waiting[0] is not None:
                await asyncio.sleep(self.wait)
            while len(waiting) < self.size and not self.jobs.empty():
                waiting.append(self.jobs.get_nowait())
            jobs = [job for job in waiting if job is not None]
            if jobs:
                await self.answer(jobs)
            if len(jobs) < len(waiting):
                return

    async def stop(self) -> None:
        await self.jobs.put(None)

    async def answer(self, jobs: list[Job]) -> None:
        self.batches, self.requests = self.batches + 1, self.requests + len(jobs)
        # What has other options is another call.
        groups: dict[tuple[bool, ...], list[Job]] = {}
        for job in jobs:
            asked = job.request
            key = asked.filter_seen, asked.times is not None, asked.allow is not None
            groups.setdefault(key, []).append(job)
        for group in groups.values():
            try:
                call = partial(self.recommend, [job.request for job in group])
                responses = await run_in_threadpool(call)
                for job, response in zip(group, responses, strict=True):
                    if not job.answer.done():  # the client may have gone
                        job.answer.set_result(response)
            except Exception:  # one of them; the others get their answers
                await self.one_by_one(group)

    async def one_by_one(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                answer = (await run_in_threadpool(partial(self.recommend, [job.request])))[0]
                if not job.answer.done():
                    job.answer.set_result(answer)
            except ValueError as error:  # what was asked cannot be done
                if not job.answer.done():
                    job.answer.set_exception(HTTPException(422, str(error)))
            except Exception as error:  # the loop must go on
                if not job.answer.done():
                    job.answer.set_exception(error)

    def recommend(self, requests: Sequence[Request]) -> list[Response]:
        """One call of the model for all; in the worker thread."""
        given: dict[str, Any] = {}
        known = [[str(item) in self.known for item in request.history] for request in requests]
        if requests[0].times is not None:
            given["times"] = [
                list(compress(request.times or [], mine))
                for request, mine in zip(requests, known, strict=True)
            ]
        if requests[0].allow is not None:
            given["items"] = [self.only_known(request.allow or []) for request in requests]
        if any(request.exclude for request in requests):
            given["exclude"] = [self.only_known(request.exclude) for request in requests]
        found = self.model.recommend(
            history=[
                list(compress(request.history, mine))
                for request, mine in zip(requests, known, strict=True)
            ],
            k=min(max(request.k for request in requests), self.model.data.n_targets),
            filter_seen=requests[0].filter_seen,
            unknown="popular",
            **given,
        )
        return [
            self.response(request, *row)
            for request, *row in zip(requests, *found, found.fallback.tolist(), strict=True)
        ]

    def response(
        self, request: Request, items: np.ndarray, scores: np.ndarray, popular: bool
    ) -> Response:
        best = [
            Item(item=item, score=float(score))
            for item, score in zip(items.tolist(), scores, strict=True)
            if item is not None
        ]
        unknown = len(request.history) - len(self.only_known(request.history))
        return Response(items=best[: request.k], unknown=unknown, popular=popular)

    def only_known(self, items: Sequence[RawId]) -> list[RawId]:
        return [item for item in items if str(item) in self.known]


class Connection(H11Protocol):
    """uvicorn's own, with its limits held where it does not hold them itself.

    ``timeout_keep_alive`` is for how long a client may ask nothing; here also how long the head of
    a request may take, and again its body and answer. Where ``limit_concurrency`` connections are
    open, a new one takes the place of the one that has waited longest for a request to come.
    """

    waiting: ClassVar[dict[Connection, None]] = {}  # for a request, longest first
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        kept: socket.socket = transport.get_extra_info("socket")
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT_BYTES)
        if self.waiting and len(self.connections) >= self.limit_concurrency:
            next(iter(self.waiting)).drop()
        self.wait()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # the head of a request is there
            self.waiting.pop(self, None)
            self.allow_time()

    def on_response_complete(self) -> None:
        self.wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def wait(self) -> None:
        self.waiting[self] = None
        self.allow_time()

    def allow_time(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(self.timeout_keep_alive, self.drop)

    def drop(self) -> None:
        """At once: closing would wait for a client that does not read."""
        self.waiting.pop(self, None)
        self.connections.discard(self)  # now, or whoever asks meanwhile is one too many
        self.transport.abort()


def checked(request: Request) -> None:
    """What a type does not say."""
    if request.times is not None:
        if len(request.times) != len(request.history):
            raise HTTPException(
                422, f"times has {len(request.times)} values for {len(request.history)} items"
            )
        if any(later < earlier for earlier, later in pairwise(request.times)):
            raise HTTPException(422, "times must be ascending, the oldest first")


# FastAPI keeps the functions of routes for the life of the process: none of them may hold a model.
router = APIRouter()


@router.post("/recommend")
async def recommend_items(request: Request, http: HTTPRequest) -> Response:
    checked(request)
    return await http.app.state.batcher.ask(request)


@router.get("/health")
async def health(http: HTTPRequest) -> dict[str, Any]:
    batcher: Batcher = http.app.state.batcher
    return {
        "model": batcher.model.name,
        "items": batcher.model.data.n_items,
        "requests": batcher.requests,
        "batches": batcher.batches,
        "waiting": batcher.jobs.qsize(),
    }


async def refuse(_: Any, error: RequestValidationError) -> JSONResponse:
    """What is wrong and where, without the input, which may be long or private."""
    found = [
        {"loc": [str(key)[:LONGEST_NAME] for key in each["loc"]], "msg": each["msg"]}
        for each in error.errors()[:MOST_ERRORS]
    ]
    return JSONResponse({"detail": found}, 422)


def make_app(model: pf.PDRec, *, batch_size: int = 64, wait_ms: float = 2.0) -> FastAPI:
    """The service of a model.

    Args:
        batch_size: requests scored at once, at most.
        wait_ms: how long the first of a batch waits for others.

    Raises:
        ValueError: a batch of less than one request, or a negative time.
    """
    if batch_size < 1 or not 0 <= wait_ms < math.inf:
        raise ValueError(
            "batch_size must be at least 1 and wait_ms not negative, got "
            f"{batch_size} and {wait_ms}"
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = app.state.batcher = Batcher(model.prepared(), batch_size, wait_ms / 1000)
        worker = asyncio.create_task(batcher.run())
        yield
        await batcher.stop()
        await worker

    app = FastAPI(title="pdrec_fast", version=pf.__version__, lifespan=lifespan)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MOST_BYTES)
    app.include_router(router)
    return app


def load(path: Path) -> pf.PDRec:
    """A saved model, or that of a run."""
    return pf.PDRec.load(path / "model" if (path / "run.json").exists() else path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="what PDRec.save wrote, or a run's directory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--wait-ms", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=None, help="of the model")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds that a client may take or ask nothing"
    )
    parser.add_argument("--connections", type=int, default=256, help="open at a time")
    options = parser.parse_args()
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")
    if not 0 <= options.wait_ms < math.inf:
        parser.error(f"--wait-ms must not be negative, got {options.wait_ms}")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if not 0 < options.timeout < math.inf:
        parser.error(f"--timeout must be above 0, got {options.timeout}")
    if options.connections < 1:
        parser.error(f"--connections must be at least 1, got {options.connections}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    app = make_app(load(options.model), batch_size=options.batch_size, wait_ms=options.wait_ms)
    # On SIGTERM it takes no new requests and answers those that it has. uvicorn then raises the
    # signal again, which is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="error",  # not every bad request: a client could fill the disk
        http=Connection,
        ws="none",
        timeout_keep_alive=options.timeout,
        timeout_graceful_shutdown=options.timeout,
        limit_concurrency=options.connections,
        backlog=options.connections,
    )


if __name__ == "__main__":
    main()
