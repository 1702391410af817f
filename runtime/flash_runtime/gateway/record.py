"""What is remembered of one request for the log line and the metrics: numbers only, never words of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.types import Scope

from flash_runtime.gateway.tracks import Track

SCOPE_KEY = "flashplane.record"


class Trace(Protocol):
    """The spans of one request."""

    @property
    def trace_id(self) -> str | None:
        """None when nothing of this request is sent."""

    def engine_starts(self) -> None:
        """The prompt is handed over."""

    def engine_ended(self, record: Record, failure: str | None) -> None:
        """Nothing more comes; `failure` names what an engine did wrong."""

    def end(self, record: Record, status: int) -> None:
        """The request is over."""


class Traces(Protocol):
    """Where spans begin."""

    def begin(self, scope: Scope, route: str) -> Trace:
        """The spans of a request that has just arrived."""


@dataclass
class Record:
    """Filled in while the request runs."""

    request_id: str
    started_at: float
    """On the gateway's clock, in seconds."""
    counted: bool = True
    """Whether metrics hear of it; a canary is nobody's request."""
    tenant: str = ""
    """Whose request it is, made from the API key or the token's caller; empty where nobody is asked. Not logged."""
    num_choices: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    error_code: str | None = None
    trace: Trace | None = None
    """None = requests are not traced."""
    track: Track = Track.STABLE
    """The revision that the request was given to."""


def record_of(scope: Scope) -> Record:
    """The record of the request that this ASGI scope belongs to."""
    record: Record = scope[SCOPE_KEY]
    return record
