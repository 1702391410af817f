"""How answers look on the wire: OpenAI's objects for chat and text completions, whole or as events. Knows no engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from flash_runtime.gateway.choices import Choice
from flash_runtime.gateway.generation import Piece
from flash_runtime.gateway.http import DONE, event
from flash_runtime.gateway.logprobs import Json, Scored, chat_logprobs, completion_logprobs


class Form(Protocol):
    """What differs between the two endpoints."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self) -> Json | None:
        """The first chunk of a choice, before any text, if there is one."""

    def part(self, text: str) -> Json:
        """A chunk with text."""

    def ending(self) -> Json:
        """The chunk that carries the finish reason."""

    def whole(self, text: str) -> Json:
        """All text of a choice."""

    def logprobs(self, scored: Sequence[Scored]) -> Json:
        """How likely the tokens of a chunk or a choice were."""


class ChatForm:
    """/v1/chat/completions."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> Json | None:
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}

    def part(self, text: str) -> Json:
        return {"delta": {"content": text}}

    def ending(self) -> Json:
        return {"delta": {}}

    def whole(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, scored: Sequence[Scored]) -> Json:
        return chat_logprobs(scored)


class CompletionForm:
    """/v1/completions."""

    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> Json | None:
        return None

    def part(self, text: str) -> Json:
        return {"text": text}

    def ending(self) -> Json:
        return {"text": ""}

    def whole(self, text: str) -> Json:
        return {"text": text}

    def logprobs(self, scored: Sequence[Scored]) -> Json:
        return completion_logprobs(scored)


@dataclass
class Usage:
    """Tokens of one request, counted while it runs. A prompt counts once, however many choices continue it."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_by_choice: dict[int, int] = field(default_factory=dict)
    """Of the first choice of each prompt."""

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Usage:
        """Before the first token."""
        first = {choice.prompt: choice for choice in reversed(tuple(choices))}
        return cls(
            prompt_tokens=sum(len(choice.prompt_ids) for choice in first.values()),
            cached_by_choice={choice.index: 0 for choice in first.values()},
        )

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self.completion_tokens += piece.num_tokens
        if piece.cached_tokens and piece.index in self.cached_by_choice:
            self.cached_by_choice[piece.index] = piece.cached_tokens

    def as_json(self) -> Json:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached_by_choice.values())},
        }


@dataclass(frozen=True)
class Head:
    """What every object of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str


async def collect(
    head: Head, form: Form, pieces: AsyncGenerator[Piece, None], choices: Sequence[Choice], *, usage: Usage
) -> Json:
    """The whole answer."""
    texts: list[list[str]] = [[] for _ in choices]
    scored: list[list[Scored]] = [[] for _ in choices]
    reasons: list[str | None] = [None] * len(choices)
    async with aclosing(pieces):
        async for piece in pieces:
            texts[piece.index].append(piece.text)
            scored[piece.index] += piece.scored
            reasons[piece.index] = piece.finish_reason
    wholes = [
        {
            "index": index,
            **form.whole("".join(texts[index])),
            "logprobs": None if choice.request.logprobs is None else form.logprobs(scored[index]),
            "finish_reason": reasons[index],
        }
        for index, choice in enumerate(choices)
    ]
    return {"object": form.whole_object, **vars(head), "choices": wholes, "usage": usage.as_json()}


async def events(
    head: Head, form: Form, pieces: AsyncGenerator[Piece, None], *, usage: Usage, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events, one batch of bytes per piece."""
    common: Json = {"object": form.chunk_object, **vars(head)}
    tail: Json = {"usage": None} if include_usage else {}
    opened: set[int] = set()

    def chunk(
        index: int, content: Mapping[str, Any], finish_reason: str | None = None, scored: Sequence[Scored] = ()
    ) -> bytes:
        logprobs = form.logprobs(scored) if scored else None
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}
        return event({**common, "choices": [choice], **tail})

    async with aclosing(pieces):
        async for piece in pieces:
            batch = b""
            if piece.index not in opened:
                opened.add(piece.index)
                if opening := form.opening():
                    batch += chunk(piece.index, opening)
            if piece.text or piece.scored:
                batch += chunk(piece.index, form.part(piece.text), scored=piece.scored)
            if piece.finish_reason is not None:
                batch += chunk(piece.index, form.ending(), piece.finish_reason)
            if batch:
                yield batch
    if include_usage:
        yield event({**common, "choices": [], "usage": usage.as_json()})
    yield DONE
