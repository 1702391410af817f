"""Running choices: token ids from the engine become pieces of text. Knows no HTTP and no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from flash_runtime.gateway.choices import Choice
from flash_runtime.gateway.engine import Chunk, Engine, EngineFailed
from flash_runtime.gateway.logprobs import Scored, Scorer, Spell
from flash_runtime.text.stream import Decode, Detokenizer, StopScanner

QUEUED_PIECES = 64
"""Pieces that choices of one request may be ahead of a slow client."""


@dataclass(frozen=True)
class Piece:
    """Some text of one choice. The piece with a finish reason is the choice's last; without tokens it shows life."""

    index: int
    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None
    cached_tokens: int = 0
    scored: tuple[Scored, ...] = ()
    """Its tokens, when the request asked for log-probabilities. Their text may still be held back, or cut off."""

    @property
    def is_news(self) -> bool:
        """Whether it brings the answer further."""
        return self.num_tokens > 0 or self.finish_reason is not None


async def run_choice(engine: Engine, decode: Decode, spell: Spell, choice: Choice) -> AsyncGenerator[Piece, None]:
    """Pieces of one choice, up to its first stop string. Raises EngineError."""
    detokenizer = Detokenizer(decode)
    scanner = StopScanner(choice.stops)
    scorer = None if choice.request.logprobs is None else Scorer(spell)
    async with aclosing(engine.generate(choice.prompt_ids, choice.request)) as chunks:
        async for chunk in chunks:
            # Token by token where a stop string may end the answer, so that exactly the tokens up to it are counted.
            steps = [(id_,) for id_ in chunk.token_ids] if choice.stops else [chunk.token_ids]
            text, num_tokens = "", 0
            for ids in steps:
                text += scanner.push(detokenizer.push(ids))
                num_tokens += len(ids)
                if scanner.stopped:
                    scored = _scored(scorer, chunk, num_tokens)
                    yield Piece(choice.index, text, num_tokens, "stop", chunk.cached_tokens, scored)
                    return
            scored = _scored(scorer, chunk, num_tokens)
            if chunk.finish_reason is not None:
                text += scanner.finish()
                reason: Literal["stop", "length"] = "length" if chunk.finish_reason == "length" else "stop"
                yield Piece(choice.index, text, num_tokens, reason, chunk.cached_tokens, scored)
                return
            yield Piece(choice.index, text, num_tokens, cached_tokens=chunk.cached_tokens, scored=scored)
    raise EngineFailed("the stream ended without a finish reason")


def _scored(scorer: Scorer | None, chunk: Chunk, num_tokens: int) -> tuple[Scored, ...]:
    """The first tokens of a chunk with their log-probabilities, if anybody asked for those."""
    if scorer is None:
        return ()
    if len(chunk.logprobs) != len(chunk.token_ids):
        raise EngineFailed("the engine sent tokens without the log-probabilities it was asked for")
    return scorer.push(chunk.token_ids[:num_tokens], chunk.logprobs[:num_tokens])


async def run_choices(
    engine: Engine, decode: Decode, spell: Spell, choices: Sequence[Choice]
) -> AsyncGenerator[Piece, None]:
    """Pieces of all choices, which run side by side, as they come. The first failure ends all. Raises EngineError."""
    streams = [run_choice(engine, decode, spell, choice) for choice in choices]
    merged = streams[0] if len(streams) == 1 else _side_by_side(streams)
    async with aclosing(merged) as pieces:
        async for piece in pieces:
            yield piece


async def _side_by_side(streams: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(QUEUED_PIECES)

    async def forward(stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    await queue.put(piece)
            await queue.put(None)
        except Exception as error:  # it is raised again where the pieces are read
            await queue.put(error)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(
    pieces: AsyncGenerator[Piece, None], *, deadline: float, late: Callable[[], Exception]
) -> AsyncGenerator[Piece, None]:
    """The same pieces; raises what `late` makes once the event loop's clock passes `deadline`."""
    async with aclosing(pieces):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise late() from None
            if piece is None:
                return
            yield piece
