"""Which engine replica answers a request: the least busy one that is not resting after a failure.

A request moves to another replica only before its first token, so no client sees a token twice. Knows no transport: a
replica is anything that `connect` returns for an address.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from flash_runtime.gateway.discovery import Discovery
from flash_runtime.gateway.engine import (
    Chunk,
    Engine,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.wire import GenerateRequest

logger = logging.getLogger(__name__)

REST_SECONDS = 1.0
"""After a failure a replica is asked only if no other is left. Short, because an engine restarts in seconds."""


class Connection(Engine, Protocol):
    """An engine behind one address."""

    async def close(self) -> None:
        """Let go of the address."""


@dataclass
class Replica:
    """One address and how it is doing."""

    address: str
    connection: Connection
    outstanding: int = 0
    rests_until: float = field(default=float("-inf"))


def least_busy(replicas: Sequence[Replica], *, now: float) -> Replica | None:
    """Rested before resting, then fewest requests; None without replicas."""
    return min(replicas, key=lambda replica: (replica.rests_until > now, replica.outstanding), default=None)


class ReplicaPool:
    """All replicas as one Engine."""

    def __init__(
        self, discovery: Discovery, connect: Callable[[str], Connection], *, clock: Callable[[], float]
    ) -> None:
        self._discovery = discovery
        self._connect = connect
        self._clock = clock
        self._replicas: dict[str, Replica] = {}

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream from one replica; go on to the next while no token has arrived. Raises EngineError."""
        tried: set[str] = set()
        failure: EngineError = EngineUnavailable("no engine replica is known")
        while replica := await self._pick(besides=tried):
            tried.add(replica.address)
            started = False
            replica.outstanding += 1
            try:
                async with aclosing(replica.connection.generate(prompt_ids, request)) as chunks:
                    async for chunk in chunks:
                        started = started or bool(chunk.token_ids)
                        yield chunk
                return
            except EngineRefused:
                raise
            except EngineStalled:
                self._rest(replica)
                raise
            except EngineError as error:
                if not isinstance(error, EngineOverloaded):
                    self._rest(replica)
                    logger.warning(
                        "engine replica failed",
                        extra={"address": replica.address, "error": type(error).__name__, "started": started},
                    )
                if started:
                    raise EngineFailed(f"engine {replica.address} broke off") from error
                failure = error
            finally:
                replica.outstanding -= 1
                await self._close_if_gone(replica)
        raise failure

    async def is_empty(self) -> bool:
        """No replica is known now."""
        return not await self._discovery.addresses()

    async def close(self) -> None:
        """Close every connection."""
        while self._replicas:
            await self._replicas.popitem()[1].connection.close()

    async def _pick(self, *, besides: set[str]) -> Replica | None:
        addresses = await self._discovery.addresses()
        for address in addresses:
            if address not in self._replicas:
                self._replicas[address] = Replica(address, self._connect(address))
        for address in [known for known in self._replicas if known not in addresses]:
            replica = self._replicas.pop(address)
            if not replica.outstanding:
                await replica.connection.close()
        return least_busy([self._replicas[a] for a in addresses if a not in besides], now=self._clock())

    async def _close_if_gone(self, replica: Replica) -> None:
        if not replica.outstanding and self._replicas.get(replica.address) is not replica:
            await replica.connection.close()

    def _rest(self, replica: Replica) -> None:
        replica.rests_until = self._clock() + REST_SECONDS
