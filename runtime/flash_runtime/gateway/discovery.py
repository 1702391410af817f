"""Where the engine replicas are: `host:port` to the addresses behind it, from DNS or from a hosts file.

Knows addresses only, nothing about what listens there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

logger = logging.getLogger(__name__)

Addresses = tuple[str, ...]
_NO_ADDRESS: Final = (socket.EAI_NONAME, socket.EAI_NODATA)
"""What a resolver that works says of a Service without pods."""

Resolve = Callable[[str, int], Awaitable[Addresses]]


class Discovery(Protocol):
    """Knows the replicas at this moment."""

    async def addresses(self) -> Addresses:
        """`address:port` of every replica, sorted; empty when there is none."""


class HostsFile:
    """Lines of `host:port address:port …`. Read again whenever the file changes."""

    def __init__(self, path: Path, target: str) -> None:
        self._path = path
        self._target = target
        self._version: tuple[int, int, int] | None = None
        self._addresses: Addresses = ()

    async def addresses(self) -> Addresses:
        """The addresses on the target's line; none while the file or the line is missing."""
        return self._current()

    def _current(self) -> Addresses:
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version != self._version:
                self._addresses = _line_of(self._path.read_text(), self._target)
                self._version = version
        except FileNotFoundError:
            self._version, self._addresses = None, ()
        return self._addresses


class Dns:
    """Every address that the name resolves to, from memory; asks again in the background when that is old."""

    def __init__(
        self,
        target: str,
        *,
        clock: Callable[[], float],
        refresh_seconds: float = 1.0,
        resolve: Resolve | None = None,
        may_be_empty: bool = False,
    ) -> None:
        """Of a name that `may_be_empty`, no address is an answer like any other, and nobody waits for the first one."""
        host, _, port = target.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._clock = clock
        self._refresh_seconds = refresh_seconds
        self._resolve = resolve or resolve_with_system
        self._may_be_empty = may_be_empty
        self._addresses: Addresses = ()
        self._resolved_at = -refresh_seconds
        self._running: asyncio.Task[None] | None = None

    async def addresses(self) -> Addresses:
        """The last answer; waits for a new one only when there is none."""
        if self._running is None and self._clock() - self._resolved_at >= self._refresh_seconds:
            self._running = asyncio.create_task(self._refresh())
        if self._running is not None and not self._addresses and not self._may_be_empty:
            await asyncio.shield(self._running)
        return self._addresses

    async def _refresh(self) -> None:
        try:
            self._addresses = await self._resolve(self._host, self._port)
        except OSError as error:
            if self._may_be_empty and isinstance(error, socket.gaierror) and error.errno in _NO_ADDRESS:
                self._addresses = ()
                return
            # The last good answer stays: a DNS server that is down must not take down engines that are up.
            logger.warning("engine name does not resolve", extra={"host": self._host, "error": str(error)})
        finally:
            self._resolved_at = self._clock()
            self._running = None


async def resolve_with_system(host: str, port: int) -> Addresses:
    """What the system's resolver says. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = (str(entry[4][0]) for entry in found)
    return tuple(sorted({f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses}))


def _line_of(text: str, target: str) -> Addresses:
    for line in text.splitlines():
        name, *addresses = line.split("#", 1)[0].split() or [""]
        if name == target:
            return tuple(sorted(addresses))
    return ()
