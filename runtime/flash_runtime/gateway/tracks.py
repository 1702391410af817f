"""Which revision of the engines answers a request while a new one is tried: a fixed share of the conversations goes to
the canary, and each conversation stays where it began.

Knows no transport and no clock. What becomes of a stream is told to whoever counts, so that the operator can compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Final, Protocol

from flash_runtime.gateway.engine import (
    Chunk,
    Engine,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineUnavailable,
)
from flash_runtime.gateway.requests import ChatRequest, CompletionRequest
from flash_runtime.wire import GenerateRequest

COMPLETION_HEAD: Final = 64
"""Tokens, or four times as many characters, of a text completion by which a longer version of it is recognised."""


class Track(StrEnum):
    """The two sides of a rollout."""

    STABLE = "stable"
    CANARY = "canary"


class Result(StrEnum):
    """What became of a stream, as far as it says something about the revision."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"


Count = Callable[[Track, Result], None]


class Pool(Engine, Protocol):
    """The replicas of one revision."""

    async def is_empty(self) -> bool:
        """No replica is known now."""


class Tracks:
    """The engines of the stable revision and, while there are any, those of the canary."""

    def __init__(
        self, stable: Engine, canary: Pool | None = None, *, percent: int = 0, holding: Engine | None = None
    ) -> None:
        """`holding`: the stable engines for requests that may wait until there are some."""
        self._stable = stable
        self._holding = holding or stable
        self._canary = canary
        self._percent = percent

    async def choose(self, session: str | None, count: Count) -> Trial:
        """The engine for one request; None = a request that proves nothing about a revision."""
        if session is None:
            return Trial(self._stable, None, Track.STABLE, count)
        canary = self._canary
        if canary is None or not is_chosen(session, self._percent) or await canary.is_empty():
            return Trial(self._holding, None, Track.STABLE, count)
        return Trial(canary, self._holding, Track.CANARY, count)


class Trial:
    """One request's engine: what the canary cannot begin, the stable revision answers."""

    def __init__(self, first: Engine, second: Engine | None, track: Track, count: Count) -> None:
        self._first = first
        self._second = second
        self.track: Final = track
        """Whom the request was given to. Its latencies are that revision's, even where the other one helped out."""
        self._count = count

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """As the Engine protocol says."""
        started = False
        result: Result | None = None
        try:
            async with aclosing(self._first.generate(prompt_ids, request)) as chunks:
                async for chunk in chunks:
                    started = started or bool(chunk.token_ids)
                    # What is closed after its first token, as by a stop string, was answered too.
                    result = Result.ANSWERED if started or chunk.finish_reason is not None else None
                    yield chunk
            return
        except EngineError as error:
            # A full engine is no broken one; if it is full because it is slow, the latencies say so.
            if not isinstance(error, EngineOverloaded):
                result = Result.REFUSED if isinstance(error, EngineRefused) else Result.FAILED
            movable = isinstance(error, EngineUnavailable | EngineOverloaded | EngineFailed)
            if self._second is None or started or not movable:
                raise
        finally:
            if result is not None:
                self._count(self.track, result)
        async with aclosing(self._second.generate(prompt_ids, request)) as chunks:
            async for chunk in chunks:
                yield chunk


def is_chosen(session: str, percent: int) -> bool:
    """Whether the conversation belongs to the share. One that does still does when the share grows."""
    digest = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8, person=b"flash-canary").digest()
    return int.from_bytes(digest, "big") * 100 < percent << 64


def session_of(request: ChatRequest | CompletionRequest, tenant: str) -> str:
    """What a request has in common with the others of its conversation: the client's own key for it, else the
    beginning that they share. Never stored."""
    if isinstance(request, CompletionRequest):
        first = request.prompt[0]
        head = first[: 4 * COMPLETION_HEAD] if isinstance(first, str) else " ".join(map(str, first[:COMPLETION_HEAD]))
        return f"{tenant}\n{head}"
    if request.prompt_cache_key:
        return f"{tenant}\n{request.prompt_cache_key}"
    asked = next((index for index, message in enumerate(request.messages) if message.role == "user"), 0)
    return "\n".join((tenant, *(f"{message.role}: {message.content}" for message in request.messages[: asked + 1])))
