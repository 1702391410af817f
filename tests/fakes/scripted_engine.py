"""An engine in memory that answers with a given text and remembers what it was asked; and a gateway around it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from fakes.tiny_text import text_assets
from starlette.types import ASGIApp

from flash_api.config.gateway import GatewayConfig
from flash_runtime.gateway.access import Access
from flash_runtime.gateway.app import create_app
from flash_runtime.gateway.auth import ApiKeys
from flash_runtime.gateway.draft_watch import DraftWatch
from flash_runtime.gateway.drain import Drain
from flash_runtime.gateway.engine import Chunk, EngineError
from flash_runtime.gateway.gateway import Gateway, Surroundings
from flash_runtime.gateway.record import Traces
from flash_runtime.gateway.tokens import Tokens
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.wire import FinishReason, GenerateRequest, TokenLogprobs

MODEL = "tiny"


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ScriptedEngine:
    """Sends `text` token by token, then a finish reason; or fails after some tokens."""

    text: str = "hello world, how are you?"
    tokens_per_chunk: int = 1
    cached_tokens: int = 0
    fail_after: int | None = None
    failure: EngineError | None = None
    block_after: int | None = None
    """Wait for ever after so many tokens: a test then watches the cancellation."""
    signs_of_life: int = 0
    """Empty chunks before anything else, as of a request that waits."""
    requests: list[tuple[tuple[int, ...], GenerateRequest]] = field(default_factory=list)
    num_cancelled: int = 0
    blocked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._ids = Tokenizer(text_assets()).encode(self.text)

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """As the Engine protocol says."""
        self.requests.append((tuple(prompt_ids), request))
        ids = self._ids[: request.max_tokens]
        finished = False
        try:
            for _ in range(self.signs_of_life):
                yield Chunk(())
            for start in range(0, len(ids), self.tokens_per_chunk):
                if self.failure and start >= (self.fail_after or 0):
                    raise self.failure
                if self.block_after is not None and start >= self.block_after:
                    self.blocked.set()
                    await asyncio.Event().wait()
                await asyncio.sleep(0)
                some = tuple(ids[start : start + self.tokens_per_chunk])
                logprobs = tuple(_logprobs(id_, request.logprobs) for id_ in some if request.logprobs is not None)
                yield Chunk(some, cached_tokens=self.cached_tokens, logprobs=logprobs)
            if self.failure:
                raise self.failure
            finished = True
            reason = FinishReason.LENGTH if len(self._ids) >= request.max_tokens else FinishReason.STOP
            yield Chunk((), reason, self.cached_tokens)
        finally:
            if not finished:
                self.num_cancelled += 1
                self.cancelled.set()


class ScriptedReplica(ScriptedEngine):
    """One of several, which says when it was let go."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def _logprobs(id_: int, num_top: int | None) -> TokenLogprobs:
    """The token itself, then the ones after it in the vocabulary."""
    return TokenLogprobs(-id_ / 100, tuple((id_ + index, -id_ / 100 - index) for index in range(num_top or 0)))


@dataclass
class Stack:
    """A gateway application and its parts."""

    app: ASGIApp
    gateway: Gateway
    engine: ScriptedEngine
    clock: Clock
    drain: Drain

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """An HTTP client that calls the application directly."""
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://gateway", **options)


def a_stack(
    engine: ScriptedEngine | None = None,
    *,
    assets: TextAssets | None = None,
    keys: Callable[[Clock], ApiKeys] | None = None,
    tokens: Tokens | None = None,
    traces: Traces | None = None,
    drafts: DraftWatch | None = None,
    limits: dict[str, Any] | None = None,
    patience_seconds: float = 0.0,
    **config: Any,
) -> Stack:
    """A gateway for the tiny tokenizer and a scripted engine."""
    assets = assets or text_assets()
    engine = engine or ScriptedEngine()
    clock, drain, ids = Clock(), Drain(), itertools.count()
    tokenizer = Tokenizer(assets)
    gateway = Gateway(
        GatewayConfig(
            served_model_name=MODEL, engine="unused:8001", model_dir="/unused", limits=limits or {}, **config
        ),
        assets,
        engine,
        tokenizer=tokenizer,
        chat_template=ChatTemplate(assets.header, tokenizer, now=lambda: datetime(2026, 11, 23, tzinfo=UTC)),
        surroundings=Surroundings(
            clock=clock, wall_clock=lambda: 1_800_000_000.5, draw_seed=lambda: 7, draw_id=lambda: f"id{next(ids)}"
        ),
        patience_seconds=patience_seconds,
    )
    access = Access(keys(clock) if keys else None, tokens)
    app = create_app(gateway, access=access, drain=drain, traces=traces, drafts=drafts)
    return Stack(app, gateway, engine, clock, drain)


def a_chat(**fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
