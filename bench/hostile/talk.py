"""What a client that keeps to no rule sends, and what it gets."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

HOST = "127.0.0.1"  # never another
CLOSED, OPEN, LEFT = "closed", "open", "left"
PAUSE = 0.1  # seconds between the bytes of who dribbles


class RefusedError(Exception):
    """Nobody listens, which is no way to end a connection."""


@contextmanager
def connected(port: int, patience: float, kept_bytes: int = 0) -> Iterator[socket.socket]:
    """A connection to the service, on which each step may take so many seconds.

    Args:
        kept_bytes: that the system keeps of answers until they are read; 0 for what it likes.
    """
    with socket.socket() as client:
        if kept_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kept_bytes)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(patience)
        try:
            client.connect((HOST, port))
        except ConnectionRefusedError as error:
            raise RefusedError from error
        yield client


def request(
    body: bytes = b"", method: str = "POST", path: str = "/recommend", headers: str = ""
) -> bytes:
    """A whole request; ``headers`` are lines that end with CR LF."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body


def ask(port: int, patience: float, sent: bytes | Iterable[bytes]) -> str:
    """The status of the answer, ``CLOSED`` where there is none, ``OPEN`` where nothing happens."""
    try:
        with connected(port, patience) as client:
            try:
                for piece in [sent] if isinstance(sent, bytes) else sent:
                    client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have answered before
            return status(client)
    except TimeoutError:
        return OPEN
    except OSError:
        return CLOSED


def ask_json(port: int, patience: float, body: str | dict[str, Any]) -> str:
    """``ask`` with a text, or a value as JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    return ask(port, patience, request(text.encode("utf-8")))


def status(client: socket.socket) -> str:
    """Of the next answer."""
    seen = b""
    while len(seen) < 12:
        piece = client.recv(12 - len(seen))
        if not piece:
            return CLOSED
        seen += piece
    return seen[9:12].decode("ascii", "replace")


def until_closed(client: socket.socket, patience: float) -> str:
    """``CLOSED`` once the service has, whatever it says before."""
    until = time.monotonic() + patience
    try:
        while time.monotonic() < until:
            if not client.recv(65536):
                return CLOSED
    except TimeoutError:
        return OPEN
    except OSError:
        return CLOSED
    return OPEN


def dribble(port: int, patience: float, first: bytes, pieces: Iterable[bytes]) -> str:
    """``first``, then a piece after every pause, until the service answers or closes."""
    until = time.monotonic() + patience
    try:
        with connected(port, patience) as client:
            client.sendall(first)
            client.settimeout(PAUSE)
            for piece in pieces:
                try:
                    return status(client)
                except TimeoutError:
                    client.sendall(piece)
                if time.monotonic() > until:
                    break
    except TimeoutError:
        return OPEN
    except OSError:
        return CLOSED
    return OPEN


def leave(client: socket.socket) -> str:
    """By a reset: what is still to be sent or read is dropped."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return LEFT
