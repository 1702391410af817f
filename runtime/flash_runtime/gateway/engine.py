"""The seam between routes and engines: token ids in, token ids out, one stream per answer. No transport here.

EngineError
├── EngineUnavailable   nothing answers
├── EngineOverloaded    it answers that its queue is full
├── EngineRefused       it will never run this request: the message says why
├── EngineStalled       it was silent for longer than the stall timeout
└── EngineFailed        it broke off
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flash_runtime.wire import FinishReason, GenerateRequest, TokenLogprobs


class EngineError(Exception):
    """Root of what an engine can do to a request."""


class EngineUnavailable(EngineError):
    """No engine accepts connections."""


class EngineOverloaded(EngineError):
    """The engine has no room for this request now."""


class EngineRefused(EngineError):
    """The request breaks a rule of the engine."""


class EngineStalled(EngineError):
    """Nothing arrived for too long."""


class EngineFailed(EngineError):
    """The stream ended without a finish reason."""


@dataclass(frozen=True)
class Chunk:
    """One response of an engine. The chunk with a finish reason is the last one; an empty one is a sign of life."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, when the request asked for them."""


class Engine(Protocol):
    """Anything that continues a prompt."""

    def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer; closing the generator cancels the request. Raises EngineError."""
