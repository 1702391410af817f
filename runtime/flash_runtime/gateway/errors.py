"""What a client is told when something goes wrong: OpenAI's error envelope. Knows no HTTP server.

`ApiError` is the only exception that leaves a route on purpose; the functions below make the common ones, so that the
same mistake reads the same everywhere. Messages name the field, the value, the rule and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flash_runtime.gateway.engine import (
    EngineError,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)

RETRY_AFTER_SECONDS = 1


class ApiError(Exception):
    """A refusal or failure with its HTTP status and envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def envelope(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def invalid(param: str | None, message: str, *, code: str | None = "invalid_value") -> ApiError:
    """400: the request breaks a rule."""
    return ApiError(400, message, param=param, code=code)


def overloaded_gateway(limit: int) -> ApiError:
    """429: this gateway holds as many requests as it may."""
    return ApiError(
        429,
        f"This gateway already holds {limit} requests, the most it may (max_inflight_requests). Try again shortly.",
        type_="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(RETRY_AFTER_SECONDS)},
    )


def internal_error(request_id: str) -> ApiError:
    """500: a bug of ours. What it was stands in the log only."""
    return ApiError(
        500,
        f"The gateway failed on this request; its log names {request_id}.",
        type_="server_error",
        code="internal_error",
    )


def from_engine(error: EngineError, regions: Sequence[str] = ()) -> ApiError:
    """What an engine's failure means for the client. `regions`: those that requests must not leave; empty = any."""
    if isinstance(error, EngineRefused):
        return invalid(None, f"The engine refused the request: {error}", code="engine_refused")
    if isinstance(error, EngineStalled):
        return ApiError(504, f"The engine went silent: {error}", type_="server_error", code="engine_stalled")
    retry = {"retry-after": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, EngineOverloaded):
        return ApiError(
            503,
            "Every engine has a full queue. Try again shortly.",
            type_="server_error",
            code="server_is_overloaded",
            headers=retry,
        )
    if isinstance(error, EngineUnavailable) and regions:
        return ApiError(
            503,
            f"No engine in {', '.join(regions)} can be reached at the moment, and this model is served from nowhere "
            "else. Try again later.",
            type_="server_error",
            code="no_engine_in_region",
            headers=retry,
        )
    if isinstance(error, EngineUnavailable):
        return ApiError(
            503,
            "No engine can be reached at the moment. Try again shortly.",
            type_="server_error",
            code="engine_unavailable",
            headers=retry,
        )
    return ApiError(
        503,
        "The engine broke off before the answer was complete. Try again.",
        type_="server_error",
        code="engine_failed",
        headers=retry,
    )
