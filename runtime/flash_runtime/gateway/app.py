"""The ASGI application: routes, what surrounds them, and one envelope for every error."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flash_runtime.gateway.access import Access
from flash_runtime.gateway.draft_watch import DraftWatch
from flash_runtime.gateway.drain import Drain
from flash_runtime.gateway.errors import ApiError, internal_error
from flash_runtime.gateway.gateway import Gateway
from flash_runtime.gateway.health import Canary
from flash_runtime.gateway.http import CLIENT_GONE, ClientGone, error_response
from flash_runtime.gateway.middleware import STATUS_CLIENT_GONE, Guard, Observe
from flash_runtime.gateway.record import Traces, record_of
from flash_runtime.gateway.routes import Routes


def create_app(
    gateway: Gateway,
    *,
    access: Access,
    drain: Drain,
    traces: Traces | None = None,
    drafts: DraftWatch | None = None,
) -> ASGIApp:
    """The application for one gateway; `traces` None = requests are not traced, `drafts` None = there is no draft."""
    clock = gateway.surroundings.clock
    inner = Starlette(
        routes=Routes(gateway, Canary(gateway, clock=clock), drain, drafts).table(),
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientGone: _client_gone,
            Exception: _bug,
        },
    )
    inner.router.redirect_slashes = False
    guarded = Guard(
        inner, access=access, metrics=gateway.metrics, max_inflight=gateway.config.limits.max_inflight_requests
    )
    draw_id = gateway.surroundings.draw_id
    return Observe(guarded, metrics=gateway.metrics, drain=drain, clock=clock, draw_id=draw_id, traces=traces)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    record_of(request.scope).error_code = error.code
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    if error.status_code == 404:
        message, code = f"There is no {path} here; see /v1/models, /v1/chat/completions, /v1/completions.", "not_found"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message, code = f"{request.method} is not possible on {path}; use {allowed}.", "method_not_allowed"
    else:
        message, code = error.detail, "http_error"
    return await _api_error(request, ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})))


async def _client_gone(request: Request, error: Exception) -> Response:
    record_of(request.scope).error_code = CLIENT_GONE
    return Response(status_code=STATUS_CLIENT_GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """Starlette raises it again after this answer, and `Observe` logs it."""
    return error_response(internal_error(record_of(request.scope).request_id))
