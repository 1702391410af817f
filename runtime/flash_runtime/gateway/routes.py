"""The endpoints. Each reads a body, lets the gateway work and shapes the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from flash_runtime.gateway.answers import ChatForm, CompletionForm, Form, Head, Usage, collect, events
from flash_runtime.gateway.choices import Choice
from flash_runtime.gateway.draft_watch import DraftWatch
from flash_runtime.gateway.drain import Drain
from flash_runtime.gateway.errors import ApiError
from flash_runtime.gateway.gateway import Gateway
from flash_runtime.gateway.generation import Piece
from flash_runtime.gateway.health import Canary
from flash_runtime.gateway.http import EventStream, JsonResponse, event, read_json, until_disconnect
from flash_runtime.gateway.recent import server_timing
from flash_runtime.gateway.record import Record, record_of
from flash_runtime.gateway.requests import SamplingFields, parse_chat, parse_completion

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OWNER = "flashplane"
BODY_SECONDS = 30.0
"""Longest time for a body to arrive: a client that sends slowly would otherwise hold a place among the requests."""


class Routes:
    """All endpoints of one gateway."""

    def __init__(self, gateway: Gateway, canary: Canary, drain: Drain, drafts: DraftWatch | None = None) -> None:
        self._gateway = gateway
        self._canary = canary
        self._drain = drain
        self._drafts = drafts

    def table(self) -> list[Route]:
        """What Starlette routes by."""
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/livez", self.livez, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def chat(self, request: Request) -> ASGIApp:
        """POST /v1/chat/completions."""
        body = parse_chat(await self._read(request))
        return await self._answer(
            request, body, await self._gateway.chat(body, record_of(request.scope).tenant), ChatForm()
        )

    async def completions(self, request: Request) -> ASGIApp:
        """POST /v1/completions."""
        body = parse_completion(await self._read(request))
        return await self._answer(
            request, body, await self._gateway.complete(body, record_of(request.scope).tenant), CompletionForm()
        )

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JsonResponse({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        self._gateway.check_model(request.path_params["model"])
        return JsonResponse(self._model_object())

    async def livez(self, request: Request) -> Response:
        """GET /livez: the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """GET /readyz: a request would be answered with tokens. What requests lately took is in Server-Timing, what
        proposals are worth in Flashplane-Draft."""
        if self._drain.started:
            return PlainTextResponse("draining\n", status_code=503)
        verdict = await self._canary.verdict()
        lately = server_timing(ttft=self._gateway.recent_ttft.percentile(), tpot=self._gateway.recent_tpot.percentile())
        worth = {} if self._drafts is None else self._drafts.headers()
        status_code = 200 if verdict.ready else 503
        return PlainTextResponse(f"{verdict.reason}\n", status_code=status_code, headers={**lately, **worth})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self._gateway.metrics.render(), headers={"content-type": METRICS_TYPE})

    async def _read(self, request: Request) -> Any:
        limits = self._gateway.config.limits
        return await read_json(
            request,
            max_bytes=limits.max_body_bytes,
            timeout_seconds=min(BODY_SECONDS, limits.request_timeout_seconds),
        )

    def _model_object(self) -> dict[str, Any]:
        return {
            "id": self._gateway.config.served_model_name,
            "object": "model",
            "created": self._gateway.started_at,
            "owned_by": OWNER,
        }

    async def _answer(self, request: Request, body: SamplingFields, choices: tuple[Choice, ...], form: Form) -> ASGIApp:
        record = record_of(request.scope)
        usage = Usage.of(choices)
        pieces = self._gateway.run(choices, usage, record)
        surroundings = self._gateway.surroundings
        head = Head(
            id=form.id_prefix + surroundings.draw_id(),
            created=int(surroundings.wall_clock()),
            model=self._gateway.config.served_model_name,
            system_fingerprint=self._gateway.system_fingerprint,
        )
        if not body.stream:
            answer = collect(head, form, pieces, choices, usage=usage)
            return JsonResponse(await until_disconnect(request.receive, answer))
        # Nothing is sent before the first token, so a failure until then still has its own HTTP status.
        first = await until_disconnect(request.receive, _first_news(pieces))
        stream = events(head, form, _rejoined(first, pieces), usage=usage, include_usage=body.include_usage)
        return EventStream(_with_error_event(stream, record))


async def _first_news(pieces: AsyncGenerator[Piece, None]) -> Piece:
    while True:
        piece = await anext(pieces)
        if piece.is_news:
            return piece


async def _rejoined(first: Piece, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


async def _with_error_event(stream: AsyncGenerator[bytes, None], record: Record) -> AsyncGenerator[bytes, None]:
    """A failure after the headers are out becomes the stream's last event; OpenAI's clients raise it."""
    try:
        async with aclosing(stream):
            async for data in stream:
                yield data
    except ApiError as error:
        record.error_code = error.code
        yield event(error.envelope())
