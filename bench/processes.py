"""What torchrun tells the processes that it starts, for those that are started without it."""

from __future__ import annotations

import socket


def free_port() -> str:
    """A port of this machine where processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def rank_environment(rank: int, n: int, port: str) -> dict[str, str]:
    """The variables of process ``rank`` of ``n`` on this machine; none where it is alone."""
    if n == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
