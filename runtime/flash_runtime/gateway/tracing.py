"""Traces of requests, by OTLP over HTTP: numbers, names and codes, never words of a prompt or an answer.

The only module that imports OpenTelemetry, which is an extra: import this one late. Whatever goes wrong with a
collector costs its spans and nothing else.
"""

from __future__ import annotations

import threading
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from flash_api.config.gateway import GatewayTracing
from flash_runtime.gateway.record import Record

EXPORT_SECONDS: Final = 5.0
"""Longest time for one batch to be taken."""
CLOSE_SECONDS: Final = 3.0
"""Longest time that the end of the process waits for the last batch."""
TRACES_PATH: Final = "/v1/traces"
_OPERATIONS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
_FORWARDED: Final = ("traceparent", "tracestate")


class Tracer:
    """Begins the span of each request, as a child of the client's where it sent one."""

    def __init__(self, config: GatewayTracing, *, model: str, instance: str) -> None:
        url = config.endpoint.rstrip("/")
        self._model = model
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sampling_percent / 100)),
            resource=Resource.create(
                {"service.name": "flashplane-gateway", "service.namespace": model, "service.instance.id": instance}
            ),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=url if url.endswith(TRACES_PATH) else url + TRACES_PATH, timeout=EXPORT_SECONDS
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("flash_runtime.gateway")

    def begin(self, scope: Scope, route: str) -> RequestTrace:
        """The span of a request that has just arrived."""
        headers = Headers(scope=scope)
        sent = {name: headers[name] for name in _FORWARDED if name in headers}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._propagator.extract(sent),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route},
        )
        return RequestTrace(self, span, route)

    def engine_call(self, parent: Span, route: str) -> Span:
        """The span of what engines do for a request."""
        operation = _OPERATIONS.get(route, "text_completion")
        return self._tracer.start_span(
            f"{operation} {self._model}",
            context=set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "flashplane",
                "gen_ai.request.model": self._model,
            },
        )

    def close(self) -> None:
        """Send what is left, as far as somebody takes it."""
        last = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


class RequestTrace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, span: Span, route: str) -> None:
        self._tracer = tracer
        self._span = span
        self._route = route
        self._call: Span | None = None

    @property
    def trace_id(self) -> str | None:
        """By which the trace is found; None when this request is not sampled."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.trace_flags.sampled else None

    def engine_starts(self) -> None:
        """The prompt is handed over."""
        self._call = self._tracer.engine_call(self._span, self._route)

    def engine_ended(self, record: Record, failure: str | None) -> None:
        """Nothing more comes, for whatever reason; `failure` names what an engine did wrong."""
        if self._call is None:
            return
        self._call.set_attribute("gen_ai.usage.input_tokens", record.prompt_tokens)
        self._call.set_attribute("gen_ai.usage.output_tokens", record.completion_tokens)
        if record.first_token_at is not None:
            seconds = record.first_token_at - record.started_at
            self._call.set_attribute("gen_ai.latency.time_to_first_token", seconds)
        if failure is not None:
            self._call.set_attribute("error.type", failure)
            self._call.set_status(Status(StatusCode.ERROR))
        self._call.end()

    def end(self, record: Record, status: int) -> None:
        """The request is over."""
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("flashplane.request_id", record.request_id)
        if record.error_code is not None:
            self._span.set_attribute("error.type", record.error_code)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
