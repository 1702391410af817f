"""A stream outlives the engine that computes it: what broke off after its first tokens goes on with another replica.

The next engine gets the prompt and every token that went out, so it computes what the lost one would have: results do
not depend on the batch, and random numbers belong to (seed, position). Knows no transport and no replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from flash_runtime.gateway.engine import (
    Chunk,
    Engine,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineUnavailable,
)
from flash_runtime.wire import FinishReason, GenerateRequest

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 30.0
"""How long a stream waits for an engine that goes on with it: a process that died is back in seconds."""
PAUSE_SECONDS: Final = 0.1
MAX_RESUMES: Final = 4
"""So often an engine may break off in one answer. A request that kills every engine it meets must end."""

_PASSES: Final = (EngineUnavailable, EngineOverloaded, EngineFailed)
"""What may be different elsewhere or a moment later."""


class Resuming:
    """An Engine whose streams go on when they break off. The first token is not its business: until then the caller
    can be told the truth with a status."""

    def __init__(self, engine: Engine, *, patience_seconds: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._patience_seconds = patience_seconds
        self._clock = clock

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """As the Engine protocol says."""
        sent: list[int] = []
        failure: EngineError | None = None
        num_resumes, waits_until = 0, 0.0
        while True:
            begun = False
            if len(sent) == request.max_tokens:
                yield Chunk((), FinishReason.LENGTH)  # only the end of the stream was lost
                return
            try:
                rest = continuation(request, sent)
                async with aclosing(self._engine.generate((*prompt_ids, *sent), rest)) as chunks:
                    async for chunk in chunks:
                        begun = begun or bool(chunk.token_ids)
                        sent += chunk.token_ids
                        # What is found in a cache of the continued prompt says nothing beyond the prompt itself.
                        yield replace(chunk, cached_tokens=min(chunk.cached_tokens, len(prompt_ids)))
                return
            except EngineRefused:
                if failure is not None:
                    raise failure from None  # the client's request was fine: this one is of our making
                raise
            except _PASSES as error:
                if not sent:
                    raise
                if begun or failure is None or isinstance(error, EngineFailed):
                    num_resumes, waits_until = num_resumes + 1, self._clock() + self._patience_seconds
                    failure = error
                    logger.warning("a stream broke off", extra={"error": type(error).__name__, "num_tokens": len(sent)})
                if num_resumes > MAX_RESUMES or self._clock() >= waits_until:
                    raise failure from error
            await asyncio.sleep(PAUSE_SECONDS)


def continuation(request: GenerateRequest, sent: Sequence[int]) -> GenerateRequest:
    """The request for what comes after the tokens that were sent already."""
    if not sent:
        return request
    counts_output = request.frequency_penalty or request.presence_penalty
    changes: dict[str, int] = {"max_tokens": request.max_tokens - len(sent)}
    # Said only where it matters: an engine of the release before does not know the field.
    return request.model_copy(update=changes | ({"num_resumed": len(sent)} if counts_output else {}))
