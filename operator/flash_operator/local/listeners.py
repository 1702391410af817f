"""The sockets of Services: bound once, kept open across every process that serves them, so a rollout refuses no one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable
from typing import Final

from flash_operator.local.processes import listener_of

LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 1024
# Below the range from which Linux takes ports of outgoing connections, so nobody gets one of ours by accident.
_PRIVATE_PORTS: Final = range(20_000, 32_000)


class PortInUseError(Exception):
    """Another process listens where a Service should."""


class Listeners:
    """Listening sockets by port."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def open(self, port: int) -> int:
        """The descriptor of the socket that listens on a loopback port. Raises PortInUseError."""
        if port not in self._sockets:
            self._sockets[port] = _listen(port)
        return self._sockets[port].fileno()

    def close_except(self, wanted: Collection[int]) -> None:
        for port in [port for port in self._sockets if port not in wanted]:
            self._sockets.pop(port).close()


def require_free(port: int) -> None:
    """Raises PortInUseError, with the process that has the port if it can be seen, and what to do."""
    _listen(port).close()


def free_ports(count: int, taken: Iterable[int], *, start: int = 0) -> list[int]:
    """Loopback ports that no one listens on now and that are not in `taken`.

    `start` says where to begin looking: state directories that begin elsewhere do not compete for the same ports.
    """
    excluded = set(taken)
    found: list[int] = []
    for offset in range(len(_PRIVATE_PORTS)):
        port = _PRIVATE_PORTS[(start + offset) % len(_PRIVATE_PORTS)]
        if len(found) < count and port not in excluded and is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise PortInUseError(f"no free port between {_PRIVATE_PORTS.start} and {_PRIVATE_PORTS.stop} on {LOOPBACK}")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EACCES:
            raise PortInUseError(f"port {port} needs root: set spec.endpoint.port to 1024 or more") from error
        holder = listener_of(port)
        raise PortInUseError(
            f"port {port} on {LOOPBACK} is in use by {holder or 'another process'}: stop it, or set spec.endpoint.port"
        ) from error
    return listener


def is_free(port: int) -> bool:
    """Whether no one listens on a loopback port."""
    try:
        _listen(port).close()
    except PortInUseError:
        return False
    return True
