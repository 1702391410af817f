"""HTTP around the routes: reading bodies, noticing that a client left, answering JSON and events. Knows no models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flash_runtime.gateway.errors import ApiError, invalid
from flash_runtime.gateway.record import record_of

T = TypeVar("T")

EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect tokens
]
CLIENT_GONE = "client_gone"
DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


class JsonResponse(Response):
    """Compact JSON in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Bytes of the body."""
        return to_json(content)


class EventStream:
    """Server-sent events from a generator, which is closed when the client leaves."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the generator ends or the client leaves."""
        try:
            await until_disconnect(receive, self._send_all(send))
        except ClientGone:
            record_of(scope).error_code = CLIENT_GONE

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENT_STREAM_HEADERS)})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def to_json(content: Any) -> bytes:
    """As small as JSON gets."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(content) + b"\n\n"


def error_response(error: ApiError) -> Response:
    """The envelope as a response."""
    return JsonResponse(error.envelope(), status_code=error.status, headers=error.headers)


async def read_json(request: Request, *, max_bytes: int, timeout_seconds: float) -> Any:
    """The request's JSON body. Reading stops at `max_bytes` and at the timeout. Raises ApiError or ClientGone."""
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            f"content-type ({media_type[:60] or 'none'}) must be application/json; set the header",
            code="unsupported_media_type",
        )
    too_large = ApiError(
        413, f"The body must not be larger than {max_bytes} bytes; send less.", code="request_too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise too_large
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        raise ApiError(
            408, f"The body did not arrive within {timeout_seconds:g} s; send it faster.", code="request_timeout"
        ) from None
    try:
        return from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"The body is not valid JSON: {error}; correct it", code="invalid_json") from None


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves first: then raises ClientGone.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(watcher, task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
