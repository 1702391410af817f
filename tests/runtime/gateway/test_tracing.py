"""Traces, as a real collector receives them: OTLP over HTTP, decoded from protobuf."""

from __future__ import annotations

import http.server
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes.scripted_engine import ScriptedEngine, a_chat, a_stack
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flash_api.config.gateway import GatewayTracing
from flash_runtime.gateway.engine import EngineFailed
from flash_runtime.gateway.tracing import Tracer

CHAT = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """What a collector was sent."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    raw: bytes = b""
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        self.raw += body
        sent = ExportTraceServiceRequest.FromString(body)
        for each in sent.resource_spans:
            self.resources.append(values(each.resource))
            self.spans += [span for scope in each.scope_spans for span in scope.spans]

    @property
    def server_span(self) -> Any:
        return next(span for span in self.spans if span.kind == span.SPAN_KIND_SERVER)

    @property
    def call_span(self) -> Any:
        return next(span for span in self.spans if span.kind == span.SPAN_KIND_CLIENT)


def values(holder: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


async def ask(collector: Collector, *, percent: int = 100, engine: ScriptedEngine | None = None, **headers: str) -> int:
    """One chat through a gateway that is traced, and the traces sent."""
    tracer = Tracer(GatewayTracing(endpoint=collector.url, sampling_percent=percent), model="tiny", instance="pod-1")
    async with a_stack(engine, traces=tracer).client() as client:
        answer = await client.post(CHAT, json=a_chat(max_tokens=3), headers=headers)
        assert (await client.get("/livez")).status_code == 200
    tracer.close()
    return answer.status_code


async def test_a_request_is_a_span_and_what_engines_do_for_it_is_one_below(collector: Collector) -> None:
    assert await ask(collector) == 200
    assert len(collector.spans) == 2
    server, call = collector.server_span, collector.call_span
    assert server.name == f"POST {CHAT}"
    assert values(server) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "flashplane.request_id": "req_id0",
    }
    assert (call.name, call.trace_id, call.parent_span_id) == ("chat tiny", server.trace_id, server.span_id)
    told = values(call)
    assert told.pop("gen_ai.latency.time_to_first_token") >= 0
    assert told.pop("gen_ai.usage.input_tokens") > 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "flashplane",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.output_tokens": 3,
    }
    assert collector.paths == ["/v1/traces"]
    assert collector.resources[0]["service.name"] == "flashplane-gateway"


async def test_a_clients_trace_goes_on(collector: Collector) -> None:
    await ask(collector, percent=0, traceparent=f"00-{TRACE}-{PARENT}-01")
    server = collector.server_span
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(
    ("percent", "headers"),
    [(0, {}), (100, {"traceparent": f"00-{TRACE}-{PARENT}-00"}), (0, {"traceparent": "00-nonsense-01"})],
)
async def test_what_is_not_sampled_is_not_sent(collector: Collector, percent: int, headers: dict[str, str]) -> None:
    assert await ask(collector, percent=percent, **headers) == 200
    assert collector.spans == []


async def test_no_word_of_prompt_or_answer_or_key_is_sent(collector: Collector) -> None:
    engine = ScriptedEngine(text="hello world, how are you?")
    await ask(collector, engine=engine, authorization="Bearer sk-secret")
    assert collector.spans
    for word in (b"hello", b"world", b"how are", b"sk-secret"):
        assert word not in collector.raw


async def test_a_failure_of_the_engine_is_an_error_of_both_spans(collector: Collector) -> None:
    assert await ask(collector, engine=ScriptedEngine(failure=EngineFailed("it broke"))) == 503
    server, call = collector.server_span, collector.call_span
    assert server.status.code == call.status.code == server.status.STATUS_CODE_ERROR
    assert (values(server)["error.type"], values(call)["error.type"]) == ("engine_failed", "EngineFailed")


async def test_a_client_that_errs_is_no_error_of_ours(collector: Collector) -> None:
    tracer = Tracer(GatewayTracing(endpoint=f"{collector.url}/v1/traces", sampling_percent=100), model="m", instance="")
    async with a_stack(traces=tracer).client() as client:
        assert (await client.post(CHAT, json={"model": "tiny"})).status_code == 400
    tracer.close()
    (span,) = collector.spans
    assert (span.status.code, values(span)["http.response.status_code"]) == (span.status.STATUS_CODE_UNSET, 400)
    assert collector.paths == ["/v1/traces"]


async def test_the_log_names_the_trace_of_a_request_that_is_sampled(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flash_runtime.access"):
        await ask(collector, traceparent=f"00-{TRACE}-{PARENT}-01")
        await ask(collector, traceparent=f"00-{TRACE}-{PARENT}-00")
    sampled, other = (record for record in caplog.records if record.name == "flash_runtime.access")
    assert (sampled.__dict__["trace_id"], other.__dict__["trace_id"]) == (TRACE, None)


async def test_without_a_collector_requests_are_answered_all_the_same() -> None:
    assert await ask(Collector(url="http://127.0.0.1:1")) == 200


def test_off_costs_nothing_and_a_missing_extra_is_named() -> None:
    program = """
import json, sys
from flash_api.config.gateway import GatewayConfig
from flash_runtime.gateway import serve
fields = {"served_model_name": "m", "engine": "e:1", "model_dir": "/m"}
assert serve.tracer(GatewayConfig(**fields)) is None
loaded = [name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "jwt", "httpx2")]
sys.modules["opentelemetry"] = None
try:
    serve.tracer(GatewayConfig(**fields, tracing={"endpoint": "http://c:4318"}))
except serve.StartError as error:
    print(json.dumps([loaded, str(error)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded, said = json.loads(done.stdout)
    assert loaded == []
    assert "pip install 'flashplane[tracing]'" in said
