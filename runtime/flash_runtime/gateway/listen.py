"""Where the gateway listens and how it stops listening. Knows no routes.

A rolling update passes one listening socket from process to process, so that no connection is refused in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Final

import uvicorn

from flash_runtime.gateway.drain import Drain

logger = logging.getLogger(__name__)

FIRST_PASSED_FD: Final = 3
"""Where systemd's socket activation, and whoever speaks like it, puts the first listening socket."""
BACKLOG: Final = 2048
LAST_REQUESTS_SECONDS: Final = 0.3
"""Between SIGTERM and closing idle connections: who connected just before still sends its request and is answered."""


class StartError(Exception):
    """Why the gateway does not start, as one line."""


class Server(uvicorn.Server):
    """uvicorn, which drains the way a rolling update needs and leaves with exit code 0 after SIGTERM."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain
        self.servers = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so once connections are taken."""
        await super().startup(sockets)
        logger.info("listening", extra={"address": ", ".join(map(shown, sockets or []))})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into a drain. uvicorn's own version raises them again at the end."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._begin_drain)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _begin_drain(self) -> None:
        if self._drain.started:
            self.force_exit = True
            self.should_exit = True
            return
        self._drain.started = True
        logger.info("draining")
        for server in self.servers:
            server.close()
        asyncio.get_running_loop().call_later(LAST_REQUESTS_SECONDS, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def passed_socket(environment: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that a supervisor handed over, if it did. Raises StartError."""
    if environment.get("LISTEN_FDS", "0") == "0":
        return None
    if environment.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return socket.socket(fileno=FIRST_PASSED_FD)
    except OSError as error:
        raise StartError(
            f"LISTEN_FDS ({environment['LISTEN_FDS']}) promises a listening socket as file descriptor "
            f"{FIRST_PASSED_FD}, but it is not one: {error.strerror}; unset LISTEN_FDS to use --port"
        ) from error


def bind(address: str, port: int) -> socket.socket:
    """A listening socket. Raises StartError."""
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StartError(
            f"--address {address} --port {port} cannot be used: {error.strerror}; stop what listens there or choose "
            "another port"
        ) from error
    return listener


def shown(listener: socket.socket) -> str:
    place = listener.getsockname()
    return f"{place[0]}:{place[1]}" if isinstance(place, tuple) else str(place)
