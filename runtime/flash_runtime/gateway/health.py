"""Whether the route works, found out by using it: a real request for one token. Knows no HTTP.

tritonserver says it is healthy when the engine inside is dead, so nothing less than a token counts as proof. A token of
anybody's request is proof as well; a canary is sent only when there was none for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from flash_runtime.gateway.answers import Usage
from flash_runtime.gateway.errors import ApiError
from flash_runtime.gateway.gateway import Gateway
from flash_runtime.gateway.record import Record
from flash_runtime.gateway.requests import parse_chat, parse_completion

DEADLINE_SECONDS = 8.0
"""Two steps of an engine deep in long prompts; less than the 10 s that whoever asks waits for an answer."""
FAILURE_SECONDS = 0.5
"""How long a failure is believed: short, so that readiness returns as soon as the engine does."""
BUSY_CODES = frozenset({"server_is_overloaded"})
"""An engine that says its queue is full is alive."""


@dataclass(frozen=True)
class Verdict:
    """The answer of /readyz."""

    ready: bool
    reason: str


class Canary:
    """Asks for one token when it must; callers at the same time share one request."""

    def __init__(self, gateway: Gateway, *, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._running: asyncio.Task[Verdict] | None = None
        self._last: Verdict | None = None
        self._last_at = 0.0
        self._last_failures = 0
        """Failures that were known then; any newer one makes the verdict old."""

    async def verdict(self) -> Verdict:
        """Whether a request would be answered now."""
        now = self._clock()
        fresh_seconds = self._gateway.config.canary_seconds
        answered_at = self._gateway.answered_at
        if answered_at is not None and now - answered_at < fresh_seconds:
            return Verdict(True, "ok")
        if self._last is not None and self._last_failures == self._gateway.num_failures:
            believed_seconds = fresh_seconds if self._last.ready else min(FAILURE_SECONDS, fresh_seconds)
            if now - self._last_at < believed_seconds:
                return self._last
        if self._running is None:
            self._running = asyncio.create_task(self._ask())
            self._running.add_done_callback(self._remember)
        return await asyncio.shield(self._running)

    def _remember(self, task: asyncio.Task[Verdict]) -> None:
        self._running = None
        if not task.cancelled():
            self._last, self._last_at = task.result(), self._clock()
            self._last_failures = self._gateway.num_failures

    async def _ask(self) -> Verdict:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                if not await self._one_token():
                    return Verdict(True, "busy")
        except TimeoutError:
            return Verdict(False, f"no token within {DEADLINE_SECONDS:g} s")
        except ApiError as error:
            if error.code in BUSY_CODES:
                return Verdict(True, "busy")
            return Verdict(False, error.message)
        return Verdict(True, "ok")

    async def _one_token(self) -> bool:
        """True once the token came, False as soon as the engine shows that it lives but is busy with others."""
        gateway = self._gateway
        body = {"model": gateway.config.served_model_name, "max_tokens": 1, "temperature": 0.0}
        if gateway.has_chat:
            choices = await gateway.chat(parse_chat({**body, "messages": [{"role": "user", "content": "Hi"}]}))
        else:
            choices = await gateway.complete(parse_completion({**body, "prompt": "Hi"}))
        record = Record("canary", started_at=self._clock(), counted=False)
        async with aclosing(gateway.run(choices, Usage.of(choices), record)) as pieces:
            async for piece in pieces:
                if not piece.is_news:
                    return False
        return True
