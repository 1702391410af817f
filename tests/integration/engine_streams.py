"""A client of one engine's streams, as the gateway is one, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonserver_plugin import RunningEngine

from flash_runtime import wire
from flash_runtime.wire import GenerateRequest, StreamEvent, TokenLogprobs


class StreamFailed(Exception):
    """The error that ended a stream."""


class Stream:
    """One request as a client sees it."""

    def __init__(self, engine: RunningEngine, prompt: list[int], **request: object) -> None:
        self.tokens: list[int] = []
        self.event = StreamEvent()
        self.logprobs: list[TokenLogprobs] = []
        self.num_responses = 0
        self._client = triton.InferenceServerClient(engine.grpc)
        body = GenerateRequest.model_validate({"max_tokens": 8, **request}).model_dump_json()
        self._call = self._client.stream_infer(self._requests(prompt, body))

    async def _requests(self, prompt: list[int], body: str) -> AsyncIterator[dict[str, object]]:
        ids = triton.InferInput(wire.INPUT_IDS, [len(prompt)], "INT32")
        ids.set_data_from_numpy(np.array(prompt, dtype=np.int32))
        request = triton.InferInput(wire.REQUEST, [1], "BYTES")
        request.set_data_from_numpy(np.array([body.encode()], dtype=np.object_))
        yield {"model_name": "engine", "inputs": [ids, request]}

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._client.close()

    async def receive(self) -> bool:
        """One response; False after the last."""
        result, error = await anext(self._call)
        if error is not None:
            raise StreamFailed(error.message())
        self.num_responses += 1
        self.tokens += result.as_numpy(wire.OUTPUT_IDS).tolist()
        self.event = StreamEvent.model_validate_json(result.as_numpy(wire.EVENT)[0])
        self.logprobs += self.event.logprobs
        is_final = result.get_response().parameters["triton_final_response"].bool_param
        assert is_final == (self.event.finish_reason is not None)
        return not is_final

    async def drain(self) -> Stream:
        """Everything up to the end of the call."""
        while await self.receive():
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(self._call)
        return self

    def cancel(self) -> None:
        self._call.cancel()


async def generate(engine: RunningEngine, prompt: list[int], **request: object) -> Stream:
    async with Stream(engine, prompt, **request) as stream:
        return await stream.drain()
