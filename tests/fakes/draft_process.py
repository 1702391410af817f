"""A draft behind a real gRPC stream, without tritonserver: the product's worker over a PagedModel, and ways to fail."""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from fakes.paged_model import PagedModel
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flash_runtime.backend.delivery import StreamClosed
from flash_runtime.backend.draft_worker import DraftWorker
from flash_runtime.draft_wire import GUESSES, HELLO, NEWS, WELCOME, Hello, Welcome
from flash_runtime.engine.draft_server import DraftServer

Twist = Callable[[bytes], bytes | None]


class _Line:
    """Responses to one request."""

    def __init__(self, out: queue.SimpleQueue[Any], twist: Twist, is_over: threading.Event) -> None:
        self._out = out
        self._twist = twist
        self._is_over = is_over

    def welcome(self, welcome: Welcome, *, is_last: bool) -> None:
        text = welcome.model_dump_json().encode()
        self._put(WELCOME, "BYTES", len(text).to_bytes(4, "little") + text)

    def guesses(self, flat: array[int], *, is_last: bool) -> None:
        content = self._twist(flat.tobytes())
        if content is not None:
            self._put(GUESSES, "INT32", content)

    def is_cancelled(self) -> bool:
        return self._is_over.is_set()

    def _put(self, name: str, datatype: str, content: bytes) -> None:
        if self._is_over.is_set():
            raise StreamClosed("the engine has left")
        response = service_pb2.ModelInferResponse(model_name="draft")
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(content)
        self._out.put(service_pb2.ModelStreamInferResponse(infer_response=response))


class DraftProcess(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Started at once; `stop` breaks its streams as the death of a process does."""

    def __init__(
        self,
        *,
        tokenizer: str = "t",
        revision: str = "1",
        twist: Twist = lambda content: content,
        port: int = 0,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._twist = twist
        self._outs: list[queue.SimpleQueue[Any]] = []
        self.num_streams = 0
        self.crashes: list[BaseException] = []
        self.worker = DraftWorker(
            DraftServer(PagedModel(num_blocks=400), max_sequences=64, clock=lambda: 0.0),
            tokenizer=tokenizer,
            revision=revision,
            max_streams=4,
            clock=time.monotonic,
            on_stats=lambda stats: None,
            on_crash=self.crashes.append,
            is_stopping=is_stopping,
        )
        self.worker.start()
        self._server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.address = f"127.0.0.1:{self.port}"

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outs.append(out)
        self.num_streams += 1
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            out.put(None)

        context.add_callback(end)
        threading.Thread(target=self._read, args=(requests, _Line(out, self._twist, is_over)), daemon=True).start()
        yield from iter(out.get, None)

    def stop(self) -> None:
        self._server.stop(grace=None).wait()
        for out in self._outs:
            out.put(None)
        assert self.worker.stop(5.0)
        assert not self.crashes

    def _read(self, requests: Iterator[Any], line: _Line) -> None:
        try:
            for request in requests:
                content = request.raw_input_contents[0]
                match request.inputs[0].name:
                    case name if name == HELLO:
                        self.worker.hello(request.id, Hello.model_validate_json(content[4:]), line)
                    case name if name == NEWS:
                        self.worker.news(request.id, array("i", content).tolist(), line)
        except grpc.RpcError:
            pass  # the stream is over
