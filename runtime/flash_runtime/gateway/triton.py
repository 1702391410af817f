"""One engine replica over tritonserver's gRPC: a decoupled stream per request. The only user of tritonclient here.

tritonserver keeps streams of a dead Python stub open for ever, so silence has a deadline here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
from pydantic import ValidationError
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flash_api.names import TRITON_MODEL
from flash_runtime.gateway.engine import (
    Chunk,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.wire import (
    EVENT,
    INPUT_IDS,
    OUTPUT_IDS,
    REQUEST,
    Failure,
    FinishReason,
    GenerateRequest,
    StreamEvent,
)

CHANNEL_OPTIONS = [
    # An engine that restarts must be found again within a second, not after gRPC's two minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # A node that vanished answers no pings; without them an open stream would only end by the stall timeout.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 1024**2),
    ("grpc.max_send_message_length", 64 * 1024**2),
]
END_SECONDS = 1.0
"""How long the end of a finished stream may take to arrive."""
FINAL_FLAG = "triton_final_response"
BYTES_LENGTH = struct.Struct("<I")


class TritonReplica:
    """An Engine behind one `address:port`. Must be made and used in one event loop."""

    def __init__(self, address: str, *, stall_timeout_seconds: float) -> None:
        self._address = address
        self._stall_timeout_seconds = stall_timeout_seconds
        self._client = InferenceServerClient(address, channel_args=CHANNEL_OPTIONS)

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer; closing the generator cancels the request in the engine."""
        call = self._client.stream_infer(_once(_tensors(prompt_ids, request)))
        try:
            while True:
                chunk = await self._next(call)
                if chunk.finish_reason is None:
                    yield chunk
                    continue
                # Before anything else, as the caller may not come back: a call that is cancelled in the instant between
                # its last response and its end stays open inside tritonserver 2.51, which then cannot stop.
                await _read_to_end(call)
                if chunk.finish_reason is FinishReason.OVERLOADED:
                    raise EngineOverloaded(f"{self._address} has no room")
                if chunk.finish_reason is FinishReason.CANCELLED:
                    raise EngineFailed(f"{self._address} cancelled the request")
                yield chunk
                return
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def _next(self, call: Any) -> Chunk:
        try:
            async with asyncio.timeout(self._stall_timeout_seconds):
                result, error = await anext(call)
        except TimeoutError:
            raise EngineStalled(f"nothing for {self._stall_timeout_seconds:g} s") from None
        except StopAsyncIteration:
            raise EngineFailed(f"{self._address} ended a stream without a finish reason") from None
        except grpc.aio.AioRpcError as error:
            said = f"{error.code().name}: {error.details()}"
            lost = error.code() is grpc.StatusCode.UNAVAILABLE
            raise EngineUnavailable(said) if lost else EngineFailed(said) from error
        except InferenceServerException as error:
            raise EngineFailed(error.message()) from error
        if error is not None:
            await _read_to_end(call)
            raise _failure(error.message())
        return _chunk(result.get_response())


async def _read_to_end(call: Any) -> None:
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, InferenceServerException):
        async with asyncio.timeout(END_SECONDS):
            async for _ in call:
                pass


async def _once(tensors: list[InferInput]) -> AsyncIterator[dict[str, Any]]:
    yield {"model_name": TRITON_MODEL, "inputs": tensors}


def _tensors(prompt_ids: Sequence[int], request: GenerateRequest) -> list[InferInput]:
    ids = InferInput(INPUT_IDS, [len(prompt_ids)], "INT32")
    ids.set_data_from_numpy(np.asarray(prompt_ids, dtype=np.int32))
    how = InferInput(REQUEST, [1], "BYTES")
    # Without defaults: an engine of the version before, in the middle of an update, knows the fields it needs.
    text = request.model_dump_json(exclude_defaults=True)
    how.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return [ids, how]


def _chunk(response: Any) -> Chunk:
    """Decode a response by hand: `InferResult.as_numpy` costs ten times as much, for every token."""
    raw = {output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)}
    try:
        ids = np.frombuffer(raw[OUTPUT_IDS], dtype="<i4").tolist()
        event = StreamEvent.model_validate_json(raw[EVENT][BYTES_LENGTH.size :])
    except (KeyError, ValueError, ValidationError) as error:
        raise EngineFailed(f"the engine sent a response that is not ours: {type(error).__name__}") from error
    finish_reason = event.finish_reason
    if finish_reason is None and response.parameters[FINAL_FLAG].bool_param:
        raise EngineFailed("the engine ended a stream without a finish reason")
    return Chunk(tuple(ids), finish_reason, event.cached_tokens, event.logprobs)


def _failure(text: str) -> EngineError:
    """What the text of an error means that ended a stream."""
    kind, message = Failure.read(text)
    match kind:
        case Failure.INVALID:
            return EngineRefused(message)
        case Failure.UNAVAILABLE:
            return EngineUnavailable(message)
        case Failure.INTERNAL:
            return EngineFailed(message)
