"""What is remembered of one request for the log line and the metrics: numbers only, never words of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from flash_runtime.gateway.tracks import Track

SCOPE_KEY = "flashplane.record"


@dataclass
class Record:
    """Filled in while the request runs."""

    request_id: str
    started_at: float
    """On the gateway's clock, in seconds."""
    counted: bool = True
    """Whether metrics hear of it; a canary is nobody's request."""
    tenant: str = ""
    """Whose request it is, made from the API key; empty where no keys are asked for. Not logged."""
    num_choices: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    error_code: str | None = None
    track: Track = Track.STABLE
    """The revision that the request was given to."""


def record_of(scope: Scope) -> Record:
    """The record of the request that this ASGI scope belongs to."""
    record: Record = scope[SCOPE_KEY]
    return record
