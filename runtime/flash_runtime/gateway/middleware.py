"""Around every route: request ids, the access log, counting, who may call and the limit on requests in flight.

Plain ASGI, so that a streamed answer costs nothing extra per token.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_runtime.gateway.access import Access
from flash_runtime.gateway.drain import Drain
from flash_runtime.gateway.errors import ApiError, internal_error, overloaded_gateway
from flash_runtime.gateway.http import error_response
from flash_runtime.gateway.metrics import Metrics
from flash_runtime.gateway.record import SCOPE_KEY, Record, Traces

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("flash_runtime.access")

OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes without a key: probes and scrapers have none."""
WORK_PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
KNOWN_PATHS: Final = OPEN_PATHS | WORK_PATHS | {"/v1/models"}
STATUS_CLIENT_GONE: Final = 499
"""For log and metrics only: nobody was left to read a status."""


def route_label(path: str) -> str:
    """The route of a path, from a closed list, so that no client can make up labels."""
    if path in KNOWN_PATHS:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"


class Observe:
    """Outermost: gives each request its record and its id, and tells about it when it is over."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        drain: Drain,
        clock: Callable[[], float],
        draw_id: Callable[[], str],
        traces: Traces | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._clock = clock
        self._draw_id = draw_id
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever goes wrong ends in a status, a log line and a count."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = Record(f"req_{self._draw_id()}", started_at=self._clock())
        scope[SCOPE_KEY] = record
        if self._traces is not None and scope["path"] not in OPEN_PATHS:
            record.trace = self._traces.begin(scope, route_label(scope["path"]))
        status = 0

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["x-request-id"] = record.request_id
                if self._drain.started:
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        except Exception as error:  # the outermost loop: a bug in one request must not end the others
            record.error_code = "internal_error"
            _log_bug(error, record)
            if not status:
                await error_response(internal_error(record.request_id))(scope, receive, send_and_look)
        finally:
            self._tell(scope, record, status or STATUS_CLIENT_GONE)

    def _tell(self, scope: Scope, record: Record, status: int) -> None:
        route = route_label(scope["path"])
        self._metrics.count_request(route=route, code=status)
        if record.trace is not None:
            record.trace.end(record, status)
        level = logging.DEBUG if route in OPEN_PATHS else logging.INFO
        access_logger.log(
            level,
            "request",
            extra={
                "request_id": record.request_id,
                "route": route,
                "method": scope["method"],
                "status": status,
                "error_code": record.error_code,
                "ms": round((self._clock() - record.started_at) * 1000, 2),
                "ttft_ms": None
                if record.first_token_at is None
                else round((record.first_token_at - record.started_at) * 1000, 2),
                "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "trace_id": record.trace.trace_id if record.trace is not None else None,
            },
        )


class Guard:
    """Lets in who may call, and no more requests than the gateway may hold."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics, max_inflight: int) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._max_inflight = max_inflight
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse before anything of the body is read."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        record: Record = scope[SCOPE_KEY]
        refusal = await self._refusal(scope, record)
        if refusal is not None:
            record.error_code = refusal.code
            return await error_response(refusal)(scope, receive, send)
        if scope["path"] not in WORK_PATHS:
            return await self._app(scope, receive, send)
        self._inflight += 1
        self._metrics.inflight.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._inflight -= 1
            self._metrics.inflight.dec()

    async def _refusal(self, scope: Scope, record: Record) -> ApiError | None:
        try:
            record.tenant = await self._access.tenant(Headers(scope=scope).get("authorization", ""))
        except ApiError as refusal:
            return refusal
        if scope["path"] in WORK_PATHS and self._inflight >= self._max_inflight:
            return overloaded_gateway(self._max_inflight)
        return None


def _log_bug(error: Exception, record: Record) -> None:
    """Where it happened and what kind; not the message, which may quote a prompt."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error(
        "request failed",
        extra={"request_id": record.request_id, "error": type(error).__name__, "frames": frames[-8:]},
    )
