"""The bad clients: what each does, and how that may end."""

from __future__ import annotations

import itertools
import json
import random
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.hostile.talk import (
    CLOSED,
    LEFT,
    OPEN,
    PAUSE,
    ask,
    ask_json,
    connected,
    dribble,
    leave,
    request,
    status,
    until_closed,
)

Client = Callable[[int, float, random.Random], str]  # port, patience in seconds, random numbers
GOOD = json.dumps({"history": [1, 2, 3], "k": 5}).encode()
CHUNKED = b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
PIPELINED, UNREAD, CROWD = 20, 40, 100


@dataclass(frozen=True)
class Case:
    """One kind of bad client.

    Attributes:
        ends: how it may end: a status, ``CLOSED``, ``LEFT`` where it goes by itself. 503 by a
            service that has too much to do is always right.
        waits: how often the service's ``--timeout`` may pass before.
    """

    run: Client
    ends: tuple[str, ...]
    waits: int


CASES: dict[str, Case] = {}


def case(*ends: str, waits: int = 0) -> Callable[[Client], Client]:
    def register(run: Client) -> Client:
        CASES[run.__name__.replace("_", " ")] = Case(run, ends, waits)
        return run

    return register


# Sizes


@case("413")
def large_body(port: int, patience: float, rng: random.Random) -> str:
    return ask(port, patience, _of_length(99_999_999))


@case("413", CLOSED)
def endless_chunks(port: int, patience: float, rng: random.Random) -> str:
    chunk = b"10000\r\n" + 65536 * b" " + b"\r\n"
    return ask(port, patience, itertools.chain([CHUNKED], itertools.repeat(chunk, 600)))


@case("400", CLOSED)
def endless_head(port: int, patience: float, rng: random.Random) -> str:
    lines = (b"x-%d: %s\r\n" % (n, 200 * b"y") for n in range(5000))
    return ask(port, patience, itertools.chain([b"GET /health HTTP/1.1\r\n"], lines))


@case("200")
def largest_good_request(port: int, patience: float, rng: random.Random) -> str:
    body = {"history": list(range(1, 9_001)), "exclude": list(range(90_000)), "k": 100}
    return ask_json(port, patience, body)


@case("422")
def too_many_ids(port: int, patience: float, rng: random.Random) -> str:
    return ask_json(port, patience, {"history": rng.choice([10_001, 100_000]) * [1]})


# Times


@case(CLOSED, waits=1)
def silent(port: int, patience: float, rng: random.Random) -> str:
    with connected(port, patience) as client:
        client.sendall(rng.choice([b"", b"P", b"POST /recommend HTTP/1.1\r\nhost:"]))
        return until_closed(client, patience)


@case(CLOSED, waits=1)
def silent_after_an_answer(port: int, patience: float, rng: random.Random) -> str:
    with connected(port, patience) as client:
        client.sendall(request(GOOD))
        return until_closed(client, patience)


@case(CLOSED, waits=1)
def unfinished_body(port: int, patience: float, rng: random.Random) -> str:
    with connected(port, patience) as client:
        client.sendall(request(GOOD)[: -rng.randint(1, len(GOOD))])
        return until_closed(client, patience)


@case(CLOSED, waits=1)
def dribbled_head(port: int, patience: float, rng: random.Random) -> str:
    letters = (bytes([letter]) for letter in itertools.cycle(b"x-a: b\r\n"))
    return dribble(port, patience, b"POST /recommend HTTP/1.1\r\n", letters)


@case(CLOSED, waits=1)
def dribbled_body(port: int, patience: float, rng: random.Random) -> str:
    return dribble(port, patience, _of_length(100_000), itertools.repeat(b" "))


@case(CLOSED, waits=1)
def dribbled_chunks(port: int, patience: float, rng: random.Random) -> str:
    return dribble(port, patience, CHUNKED, itertools.repeat(b"1\r\n \r\n"))


@case(CLOSED, waits=1)
def dribbled_body_that_was_refused(port: int, patience: float, rng: random.Random) -> str:
    """It goes on after the 413."""
    until = time.monotonic() + patience
    try:
        with connected(port, patience) as client:
            client.sendall(_of_length(99_999_999))
            if (answer := status(client)) != "413":
                return answer
            while time.monotonic() < until:
                client.sendall(b" ")
                time.sleep(PAUSE)
    except OSError:
        return CLOSED
    return OPEN


@case("200", CLOSED)
def half_closed(port: int, patience: float, rng: random.Random) -> str:
    """Says that it sends no more, after nothing, a part or all of a request."""
    try:
        with connected(port, patience) as client:
            client.sendall(request(GOOD)[: rng.choice([0, 50, None])])
            client.shutdown(socket.SHUT_WR)
            return status(client)
    except TimeoutError:
        return OPEN
    except OSError:
        return CLOSED


@case("200")
def crowd_beyond_the_limit(port: int, patience: float, rng: random.Random) -> str:
    """Many that ask nothing; one more comes, and asks."""
    with ExitStack() as crowd:
        for _ in range(CROWD):
            crowd.enter_context(connected(port, patience))
        return ask(port, patience, request(GOOD))


@case(CLOSED, waits=3)
def never_reads(port: int, patience: float, rng: random.Random) -> str:
    """Asks for long answers on and on."""
    asked = request(json.dumps({"history": [1], "k": 1000}).encode())
    until = time.monotonic() + 2 * patience
    with connected(port, patience, kept_bytes=4096) as client:
        client.sendall(UNREAD * asked)
        client.settimeout(PAUSE)
        while time.monotonic() < until:
            try:
                client.sendall(asked)
                time.sleep(PAUSE)
            except TimeoutError:  # nobody reads it either
                continue
            except OSError:
                return CLOSED
    return OPEN


# HTTP

BROKEN_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # TLS
    b"\x00" * 5000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /health HTTP/x\r\nhost: x\r\n\r\n",
    b"GET  /health  HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",  # no host
    b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
    b"GET /h\xc3\xa4lth HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nhost: x\r\nx: \x00\x01\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 1e3\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nabc",
    CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    CHUNKED + b"f" * 40 + b"\r\n",
    b"hello\r\n\r\n",
)


@case("400", "404", "413", "501", CLOSED)
def broken_http(port: int, patience: float, rng: random.Random) -> str:
    return ask(port, patience, rng.choice(BROKEN_HTTP))


@case("400", CLOSED)
def random_bytes(port: int, patience: float, rng: random.Random) -> str:
    return ask(port, patience, rng.randbytes(rng.choice([20, 20_000])) + b"\r\n\r\n")


@case("404", "400")
def unknown_path(port: int, patience: float, rng: random.Random) -> str:
    paths = ("/", "/recommend/x", "/../../etc/passwd", "/%00", "/%ff%fe", "//", "/a" * 5000, "*")
    return ask(port, patience, request(GOOD, "POST", rng.choice(paths)))


@case("405", "400")
def wrong_method(port: int, patience: float, rng: random.Random) -> str:
    methods = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "NONSENSE", "post")
    return ask(port, patience, request(GOOD, rng.choice(methods)))


@case("200", "405", "400", CLOSED)
def odd_headers(port: int, patience: float, rng: random.Random) -> str:
    """Upgrades and what else is not offered; the request is a good one."""
    headers = (
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\n",
        "x: " + "\xff" * 100 + "\r\n",
        "".join(f"x-{n}: y\r\n" for n in range(90)),
        "x-forwarded-for: " + "1.2.3.4, " * 100 + "\r\n",
    )
    return ask(port, patience, request(GOOD, headers=rng.choice(headers)))


@case("100")
def waits_for_a_word(port: int, patience: float, rng: random.Random) -> str:
    """``expect: 100-continue``, and it leaves when it has that."""
    return ask(port, patience, _of_length(50, "expect: 100-continue\r\n"))


@case("413")
def waits_for_a_word_on_a_large_body(port: int, patience: float, rng: random.Random) -> str:
    return ask(port, patience, _of_length(99_999_999, "expect: 100-continue\r\n"))


@case("200", waits=1)
def pipelined(port: int, patience: float, rng: random.Random) -> str:
    """Many requests at once, which are answered one after the other."""
    last = request(GOOD, headers="connection: close\r\n")
    seen = b""
    with connected(port, patience) as client:
        client.sendall((PIPELINED - 1) * request(GOOD) + last)
        while piece := client.recv(65536):
            seen += piece
    found = seen.count(b"HTTP/1.1 200")
    return "200" if found == PIPELINED else f"{found} of {PIPELINED}"


@case(LEFT)
def leaves_at_once(port: int, patience: float, rng: random.Random) -> str:
    with connected(port, patience) as client:
        client.sendall(request(GOOD))
        return leave(client)


@case(LEFT)
def leaves_in_the_answer(port: int, patience: float, rng: random.Random) -> str:
    with connected(port, patience) as client:
        client.sendall(PIPELINED * request(GOOD))
        client.recv(5)
        return leave(client)


# Bodies


@case("400", "422")
def broken_json(port: int, patience: float, rng: random.Random) -> str:
    text = GOOD.decode()
    broken = (text[: rng.randrange(len(text))], "", "{", "nul", "'a'", text + "}", "\x00", "\ufeff")
    return ask_json(port, patience, rng.choice(broken))


@case("400", "422")
def not_utf8(port: int, patience: float, rng: random.Random) -> str:
    return ask(port, patience, request(b'{"history": ["\xff\xfe\xc0"]}'))


@case("400", "413", "422")
def deep_json(port: int, patience: float, rng: random.Random) -> str:
    n = rng.choice([100, 2000, 400_000])
    inner = rng.choice(["[" * n + "]" * n, '{"a":' * n + "1" + "}" * n, "[" * n])
    return ask_json(port, patience, f'{{"history": {inner}}}')


@case("400", "422")
def huge_numbers(port: int, patience: float, rng: random.Random) -> str:
    nines = "9" * rng.choice([400, 5000, 500_000])
    fields = (
        f'"history": [1], "k": {nines}',
        f'"history": [1], "times": [{nines}]',
        '"history": [1], "times": [1e999]',
        '"history": [1], "k": -1',
        '"history": [1], "k": 1e2',
        f'"history": [1], "k": -{nines}',
    )
    return ask_json(port, patience, f"{{{rng.choice(fields)}}}")


@case("422")
def not_a_number(port: int, patience: float, rng: random.Random) -> str:
    word = rng.choice(["NaN", "Infinity", "-Infinity"])
    fields = (f'"times": [{word}]', f'"k": {word}', f'"exclude": [{word}]')
    return ask_json(port, patience, f'{{"history": [1], {rng.choice(fields)}}}')


@case("200")
def odd_ids(port: int, patience: float, rng: random.Random) -> str:
    """Text and numbers of any kind are ids that nobody knows."""
    odd = (r"\ud800", r"\u0000", "\u202e\u0301", "a" * 9000, "\U0001f600", "' OR 1=1 --", "../..")
    history = [f'"{rng.choice(odd)}"', "1", str(-(10**300)), "0", '"1"']
    return ask_json(port, patience, f'{{"history": [{", ".join(history)}]}}')


@case("200", "422")
def odd_times(port: int, patience: float, rng: random.Random) -> str:
    first, last = rng.choice([(-1e308, 1e308), (0, 5e-324), (0, 0), (-1, 10**18), (1e17, 1e17)])
    return ask_json(port, patience, {"history": [1, 2], "times": [first, last]})


@case("422")
def odd_names(port: int, patience: float, rng: random.Random) -> str:
    name = rng.choice([r"\ud800", r"\u0000", "\u202e", "a" * 9000, "__class__", "$where"])
    return ask_json(port, patience, f'{{"history": [1], "{name}": 1}}')


FITS = {
    *(("times", "null"), ("times", "[1.5]"), ("allow", "null"), ("allow", "[]")),
    *(("exclude", "[]"), ("filter_seen", "true")),
}


@case("422")
def wrong_types(port: int, patience: float, rng: random.Random) -> str:
    values = (None, True, "x", 1.5, [], {}, [[1]], [None], [True], [1.5], {"a": 1}, "\x00")
    field = rng.choice(["history", "times", "k", "allow", "exclude", "filter_seen", None])
    value = rng.choice(values)
    if field is None:
        return ask_json(port, patience, json.dumps(value))
    if (field, json.dumps(value)) in FITS:
        value = {"b": 1}
    return ask_json(port, patience, {"history": [1]} | {field: value})


@case("200")
def nothing_allowed(port: int, patience: float, rng: random.Random) -> str:
    """A list without a known item: nothing is recommended."""
    return ask_json(port, patience, {"history": [1], "allow": ["nobody's"]})


def _of_length(length: int, headers: str = "") -> bytes:
    """The head of a request whose body is still to come."""
    return request(headers=headers).replace(b"content-length: 0", b"content-length: %d" % length)
