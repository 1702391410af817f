"""A request that meets no engine waits: engines are back, and DNS tells of new ones, seconds after others left.

Nothing has begun for such a request, so it loses only time. Knows no transport and no replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from flash_runtime.gateway.engine import Chunk, Engine, EngineUnavailable
from flash_runtime.wire import GenerateRequest

HOLD_SECONDS: Final = 10.0
"""Longer than DNS takes to tell of a pod that is ready: CoreDNS keeps an answer for five seconds, a gateway for one."""
PAUSE_SECONDS: Final = 0.1


class Holding:
    """An Engine that asks again where nobody answers, as long as the outage is young.

    Requests share what they know of it: when nobody has answered for `seconds`, the next ones are told at once.
    """

    def __init__(self, engine: Engine, *, seconds: float = HOLD_SECONDS, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._seconds = seconds
        self._clock = clock
        self._began_at = self._seen_at = float("-inf")
        """The outage: when a request met nobody first, and when last."""

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """As the Engine protocol says."""
        held_until: float | None = None
        while True:
            begun = False
            try:
                async with aclosing(self._engine.generate(prompt_ids, request)) as chunks:
                    async for chunk in chunks:
                        begun = begun or bool(chunk.token_ids)
                        self._seen_at = float("-inf")
                        yield chunk
                return
            except EngineUnavailable:
                now = self._clock()
                began_at = self._outage_began(now)
                # Settled once: to a request that ends every engine it meets, each outage would look young.
                held_until = held_until or began_at + self._seconds
                if begun or now >= held_until:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    def _outage_began(self, now: float) -> float:
        if now - self._seen_at > self._seconds:
            self._began_at = now
        self._seen_at = now
        return self._began_at
