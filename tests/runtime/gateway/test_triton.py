"""The gRPC client against a server that speaks tritonserver's protocol, in this process."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flash_runtime.gateway.engine import (
    Chunk,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.gateway.triton import TritonReplica
from flash_runtime.wire import Failure, FinishReason, GenerateRequest, StreamEvent, TokenLogprobs

REQUEST = GenerateRequest(max_tokens=9, temperature=0.5, seed=3, stop_token_ids=(2,))


def response(ids: list[int], *, final: bool = False, **event: Any) -> Any:
    """One response as our backend sends it."""
    infer = service_pb2.ModelInferResponse(model_name="engine")
    text = StreamEvent(**event).model_dump_json(exclude_defaults=True).encode()
    infer.outputs.add(name="output_ids", datatype="INT32", shape=[len(ids)])
    infer.outputs.add(name="event", datatype="BYTES", shape=[1])
    infer.raw_output_contents.append(np.array(ids, dtype="<i4").tobytes())
    infer.raw_output_contents.append(struct.pack("<I", len(text)) + text)
    infer.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Plays a script for each stream and remembers the requests."""

    def __init__(self, script: Callable[[Any], AsyncIterator[Any]]) -> None:
        self.script = script
        self.requests: list[Any] = []
        self.cancelled = asyncio.Event()

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        async for request in request_iterator:
            self.requests.append(request)
            try:
                async for one in self.script(context):
                    yield one
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled.set()
                raise


class Running:
    """The server and a client of it, as a context."""

    def __init__(self, script: Callable[[Any], AsyncIterator[Any]], *, stall_timeout_seconds: float = 5.0) -> None:
        self.servicer = Server(script)
        self._stall_timeout_seconds = stall_timeout_seconds

    async def __aenter__(self) -> Running:
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.servicer, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.replica = TritonReplica(f"127.0.0.1:{port}", stall_timeout_seconds=self._stall_timeout_seconds)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replica.close()
        await self._server.stop(None)

    async def answer(self) -> list[Chunk]:
        return [chunk async for chunk in self.replica.generate([5, 6, 7], REQUEST)]


async def two_tokens(context: Any) -> AsyncIterator[Any]:
    yield response([10], cached_tokens=2)
    yield response([11], final=True, finish_reason=FinishReason.STOP, cached_tokens=2)


async def test_token_ids_go_out_and_come_back() -> None:
    async with Running(two_tokens) as running:
        chunks = await running.answer()
        (request,) = running.servicer.requests
    assert chunks == [Chunk((10,), None, 2), Chunk((11,), FinishReason.STOP, 2)]
    assert request.model_name == "engine"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("input_ids", "INT32", [3]),
        ("request", "BYTES", [1]),
    ]
    assert np.frombuffer(request.raw_input_contents[0], dtype="<i4").tolist() == [5, 6, 7]
    assert GenerateRequest.model_validate_json(request.raw_input_contents[1][4:]) == REQUEST
    # What has its default is not sent: an engine of an older version would not know a new field.
    assert json.loads(request.raw_input_contents[1][4:]).keys() == {
        "max_tokens",
        "temperature",
        "seed",
        "stop_token_ids",
    }


async def test_closing_the_generator_cancels_the_stream_in_the_server() -> None:
    async def endless(context: Any) -> AsyncIterator[Any]:
        yield response([10])
        await asyncio.Event().wait()

    async with Running(endless) as running:
        chunks = running.replica.generate([1], REQUEST)
        await anext(chunks)
        await chunks.aclose()
        await asyncio.wait_for(running.servicer.cancelled.wait(), 5)


async def test_log_probabilities_come_back_as_the_engine_sent_them() -> None:
    logprobs = (TokenLogprobs(-0.25, ((10, -0.25), (3, -1.5))), TokenLogprobs(-9999.0))

    async def script(context: Any) -> AsyncIterator[Any]:
        yield response([10, 4], final=True, finish_reason=FinishReason.LENGTH, logprobs=logprobs)

    async with Running(script) as running:
        assert await running.answer() == [Chunk((10, 4), FinishReason.LENGTH, 0, logprobs)]


async def test_silence_has_a_deadline_and_cancels_the_stream() -> None:
    async def silent(context: Any) -> AsyncIterator[Any]:
        yield response([10])
        await asyncio.Event().wait()

    async with Running(silent, stall_timeout_seconds=0.05) as running:
        with pytest.raises(EngineStalled, match=r"nothing for 0\.05 s"):
            await running.answer()
        await asyncio.wait_for(running.servicer.cancelled.wait(), 5)


def aborting(code: grpc.StatusCode, details: str) -> Callable[[Any], AsyncIterator[Any]]:
    async def script(context: Any) -> AsyncIterator[Any]:
        await context.abort(code, details)
        yield response([])

    return script


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", EngineUnavailable),
        (grpc.StatusCode.INTERNAL, "Stream removed", EngineFailed),
    ],
)
async def test_a_broken_connection_is_told_from_a_failed_stream(
    code: Any, details: str, expected: type[EngineError]
) -> None:
    async with Running(aborting(code, details)) as running:
        with pytest.raises(expected, match=r"\S"):
            await running.answer()


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        (
            Failure.INVALID.text("max_tokens (0): must be positive"),
            r"^max_tokens \(0\): must be positive$",
            EngineRefused,
        ),
        (Failure.UNAVAILABLE.text("the engine is shutting down"), "^the engine is shutting down$", EngineUnavailable),
        (Failure.INTERNAL.text("boom"), "^boom$", EngineFailed),
        ("Stub process 'engine_0_0' is not healthy.", "^Stub process 'engine_0_0' is not healthy.$", EngineFailed),
        ("in ensemble: it broke", "^in ensemble: it broke$", EngineFailed),
    ],
)
async def test_the_text_of_an_error_says_what_kind_it_is(text: str, message: str, expected: type[EngineError]) -> None:
    async def script(context: Any) -> AsyncIterator[Any]:
        yield service_pb2.ModelStreamInferResponse(error_message=text)

    async with Running(script) as running:
        with pytest.raises(expected, match=message):
            await running.answer()


@pytest.mark.parametrize(
    "last",
    [
        response([1], final=True),
        response([], finish_reason=FinishReason.CANCELLED),
        service_pb2.ModelStreamInferResponse(infer_response=service_pb2.ModelInferResponse()),
        None,
    ],
)
async def test_a_stream_that_ends_wrongly_is_a_failure(last: Any) -> None:
    async def script(context: Any) -> AsyncIterator[Any]:
        yield response([10])
        if last is not None:
            yield last

    async with Running(script) as running:
        with pytest.raises(EngineFailed):
            await running.answer()


async def test_a_full_engine_says_so_and_its_call_is_read_to_the_end() -> None:
    ended = asyncio.Event()

    async def full(context: Any) -> AsyncIterator[Any]:
        yield response([], final=True, finish_reason=FinishReason.OVERLOADED)
        ended.set()

    async with Running(full) as running:
        with pytest.raises(EngineOverloaded):
            await running.answer()
        assert ended.is_set()
        assert not running.servicer.cancelled.is_set()


async def test_a_sign_of_life_is_passed_on() -> None:
    async def waiting(context: Any) -> AsyncIterator[Any]:
        yield response([])
        async for one in two_tokens(context):
            yield one

    async with Running(waiting) as running:
        chunks = await running.answer()
    assert chunks == [Chunk(()), Chunk((10,), None, 2), Chunk((11,), FinishReason.STOP, 2)]


async def test_where_nothing_listens_the_engine_is_unavailable_at_once() -> None:
    async with Running(two_tokens) as running:
        pass
    replica = TritonReplica(running.replica._address, stall_timeout_seconds=30)
    with pytest.raises(EngineUnavailable):
        await anext(replica.generate([1], REQUEST))
    await replica.close()
