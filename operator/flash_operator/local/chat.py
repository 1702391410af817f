"""One question to an OpenAI-compatible endpoint, its answer piece by piece, with the times a person would feel.

Standard library only: a client library would take longer to import than the first token takes to come.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Message = Mapping[str, str]


class ChatError(Exception):
    """The endpoint refused or broke off; the message is for the person who asked."""


@dataclass(frozen=True)
class Timing:
    """How fast one answer was, as seen by the client."""

    first_token_seconds: float
    tokens: int
    tokens_per_second: float | None
    """After the first token; None for answers too short to tell."""

    def __str__(self) -> str:
        rate = f" · {self.tokens_per_second:.0f} tokens/s" if self.tokens_per_second is not None else ""
        return f"first token {self.first_token_seconds * 1000:.0f} ms · {self.tokens} tokens{rate}"


@dataclass
class Answer:
    """Grows while it is read."""

    text: str = ""
    finish_reason: str | None = None
    timing: Timing | None = None


@dataclass(frozen=True)
class Question:
    """What to ask."""

    messages: Sequence[Message]
    max_tokens: int
    temperature: float


def stream(
    base_url: str,
    question: Question,
    *,
    model: str,
    api_key: str | None,
    clock: Callable[[], float],
    answer: Answer,
    timeout_seconds: float = 600,
) -> Iterator[str]:
    """Pieces of text as they come; `answer` holds the whole and the timing at the end. Raises ChatError."""
    url = urlsplit(base_url)
    body = {
        "model": model,
        "messages": list(question.messages),
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=timeout_seconds)
    started = clock()
    try:
        connection.request("POST", f"{url.path}/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ChatError(_refusal(response.status, response.read()))
        yield from _pieces(events(response), answer, started, clock)
    except (OSError, http.client.HTTPException) as error:
        raise ChatError(f"{base_url} did not answer: {error}") from error
    finally:
        connection.close()


def events(lines: Any) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to `[DONE]`. Raises ChatError for an error event."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise ChatError(str(event["error"].get("message", event["error"])))
        yield event
    raise ChatError("the answer broke off")


def _pieces(
    stream_events: Iterator[dict[str, Any]], answer: Answer, started: float, clock: Callable[[], float]
) -> Iterator[str]:
    first = last = None
    pieces = 0
    tokens = None
    for event in stream_events:
        if usage := event.get("usage"):
            tokens = usage["completion_tokens"]
        for choice in event.get("choices", ()):
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            if piece := choice.get("delta", {}).get("content"):
                last = clock()
                first = first or last
                pieces += 1
                answer.text += piece
                yield piece
    if first is not None and last is not None:
        count = tokens or pieces
        rate = (count - 1) / (last - first) if count > 1 and last > first else None
        answer.timing = Timing(first - started, count, rate)


def _refusal(status: int, body: bytes) -> str:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace").strip()[:300]
    hint = " Give a key with --api-key or FLASHPLANE_API_KEY." if status == http.client.UNAUTHORIZED else ""
    return f"the endpoint answered {status}: {message}{hint}"
