"""How commands and the daemon talk: one JSON line there, one back, over a Unix socket that only its owner may use.

Knows no request in particular. A socket's address is limited to about 100 bytes and a state directory is not, so both
sides name the socket through a descriptor of its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

LARGEST_MESSAGE_BYTES: Final = 16 * 1024**2


class DaemonUnavailableError(Exception):
    """No daemon answers for this state directory."""


class DaemonRefusedError(Exception):
    """The daemon answered that it cannot do what was asked, and why."""


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """The same file by a short name, as long as the context lasts."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def request(path: Path, message: Mapping[str, Any], *, timeout_seconds: float = 60) -> dict[str, Any]:
    """Ask the daemon. Raises DaemonUnavailableError, DaemonRefusedError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        try:
            with short_address(path) as address:
                connection.connect(address)
            connection.sendall(encode(message))
            line = connection.makefile("rb").readline(LARGEST_MESSAGE_BYTES)
        except OSError as error:
            raise DaemonUnavailableError(f"{path}: {error}") from error
    if not line:
        raise DaemonUnavailableError(f"{path}: the daemon closed the connection")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise DaemonRefusedError(answer["error"])
    return answer
