"""One greedy stream through the endpoint, and how it ended. Of its text only a digest is kept.

Standard library only and one connection per stream, as a client has that was just started.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_SECONDS: Final = 120.0
_CAUSE_CHARACTERS: Final = 80


class TrafficError(Exception):
    """There can be no traffic; the message says why and what to do."""


class Ending(StrEnum):
    """How a stream ended, before it is compared with anything."""

    WHOLE = "whole"
    FAILED = "failed"
    """Refused, or no token came."""
    TRUNCATED = "truncated"
    """It broke off after its first token."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and as whom."""

    base_url: str
    """With /v1."""
    model: str
    api_key: str | None = None

    def connection(self) -> http.client.HTTPConnection:
        """A new connection. Raises TrafficError for a URL that is none."""
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise TrafficError(f"--base-url ({self.base_url}) must be a URL such as http://127.0.0.1:8080/v1")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        return kind(url.hostname, url.port, timeout=TIMEOUT_SECONDS)

    @property
    def path(self) -> str:
        """What comes before /chat/completions."""
        return urlsplit(self.base_url).path.rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/json", **key}


@dataclass(frozen=True)
class Question:
    """A prompt, and how many tokens its answer may have."""

    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class Stream:
    """What is remembered of one stream: nothing of its words."""

    ending: Ending
    digest: str = ""
    """Of its text and finish reason."""
    num_pieces: int = 0
    first_token_seconds: float | None = None
    per_token_seconds: float | None = None
    """Between tokens after the first; None for answers too short to tell."""
    longest_pause_seconds: float | None = None
    """Without a token: before the first one, or between two; None where none came."""
    cause: str = ""
    """Why it did not come through."""


def ask(endpoint: Endpoint, question: Question, clock: Callable[[], float]) -> Stream:
    """One stream from its request to its end, whatever that is."""
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
    }
    connection = endpoint.connection()
    started = clock()
    heard = _Heard(clock)
    try:
        connection.request("POST", f"{endpoint.path}/chat/completions", json.dumps(body), endpoint.headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            return Stream(Ending.FAILED, cause=f"HTTP {response.status} {_code(response.read())}".rstrip())
        broken = heard.read(response)
    except (OSError, http.client.HTTPException) as error:
        broken = type(error).__name__
    finally:
        connection.close()
    if broken:
        return heard.stream(Ending.TRUNCATED if heard.num_pieces else Ending.FAILED, started, cause=broken)
    return heard.stream(Ending.WHOLE, started)


class _Heard:
    """Grows while a stream is read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._digest = hashlib.sha256()
        self._reason = ""
        self._first: float | None = None
        self._last: float | None = None
        self._longest_gap = 0.0
        self.num_pieces = 0

    def read(self, lines: Any) -> str:
        """Everything up to the end; why it is none, or nothing. Raises OSError and HTTPException."""
        for event in _events(lines):
            if event is None:
                return "" if self._reason else "no finish reason"
            if "error" in event:
                return str(event["error"].get("code") or event["error"].get("type") or "error event")
            for choice in event.get("choices", ()):
                self._reason = choice.get("finish_reason") or self._reason
                if piece := choice.get("delta", {}).get("content"):
                    now = self._clock()
                    if self._last is not None:
                        self._longest_gap = max(self._longest_gap, now - self._last)
                    self._last = now
                    self._first = self._first or now
                    self._digest.update(piece.encode())
                    self.num_pieces += 1
        return "the connection ended"

    def stream(self, ending: Ending, started: float, *, cause: str = "") -> Stream:
        """What is to be remembered."""
        self._digest.update(b"\0" + self._reason.encode())
        first, last = self._first, self._last
        per_token = None
        if first is not None and last is not None and self.num_pieces > 1:
            per_token = (last - first) / (self.num_pieces - 1)
        return Stream(
            ending,
            self._digest.hexdigest(),
            self.num_pieces,
            None if first is None else first - started,
            per_token,
            None if first is None else max(first - started, self._longest_gap),
            cause[:_CAUSE_CHARACTERS],
        )


def _events(lines: Any) -> Iterator[dict[str, Any] | None]:
    """The JSON of each event; None for `[DONE]`. What is no JSON is an error event of its own."""
    for line in lines:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                yield None
                return
            try:
                event = json.loads(data)
            except ValueError:
                event = {"error": {"code": "an event that is no JSON"}}
            yield event


def served_model(base_url: str, api_key: str | None) -> str:
    """The first model that the endpoint serves. Raises TrafficError."""
    endpoint = Endpoint(base_url, "", api_key)
    connection = endpoint.connection()
    try:
        connection.request("GET", f"{endpoint.path}/models", headers=endpoint.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise TrafficError(
                f"{base_url}/models answered {response.status} {_code(body)}: check the URL and the API key"
            )
        return str(json.loads(body)["data"][0]["id"])
    except (OSError, http.client.HTTPException) as error:
        raise TrafficError(f"{base_url} does not answer ({error}): check --base-url") from error
    except (ValueError, LookupError, TypeError) as error:
        raise TrafficError(f"{base_url}/models names no model: name one with --model") from error
    finally:
        connection.close()


def _code(body: bytes) -> str:
    """The code in OpenAI's error envelope; never the message, which may repeat what was asked."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
