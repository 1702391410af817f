"""The model that tritonserver loads: an adapter between its calls and the engine's thread. Decides nothing itself."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb
from pydantic import ValidationError

from flash_api.config.engine import EngineConfig
from flash_runtime import wire
from flash_runtime.backend.delivery import StreamClosed
from flash_runtime.backend.lifeline import Lifeline
from flash_runtime.backend.load import Loaded, draft_link, limits, load, speculation, warm_up
from flash_runtime.backend.metrics import EngineMetrics
from flash_runtime.backend.worker import EngineWorker, Submission
from flash_runtime.engine.loop import Engine
from flash_runtime.wire import Failure, GenerateRequest, StreamEvent

_FINAL: Final = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# By name: while this file is imported, `pb` does not have its classes yet.
_CODES: Final = {
    Failure.INVALID: "INVALID_ARG",
    Failure.UNAVAILABLE: "UNAVAILABLE",
    Failure.INTERNAL: "INTERNAL",
}
_STOP_SECONDS: Final = 10.0


class TritonStream:
    """One request's responses, through the sender that tritonserver gave us."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def send(self, token_ids: Sequence[int], event: StreamEvent) -> None:
        """Deliver tokens; an event with a finish reason ends the stream."""
        response = pb.InferenceResponse(
            [
                pb.Tensor(wire.OUTPUT_IDS, np.array(token_ids, dtype=np.int32)),  # [m]
                pb.Tensor(wire.EVENT, np.array([event.encode()], dtype=np.object_)),  # [1]
            ]
        )
        self._send(response, is_final=event.finish_reason is not None)

    def fail(self, failure: Failure, message: str) -> None:
        """End the stream with an error."""
        error = pb.TritonError(failure.text(message), getattr(pb.TritonError, _CODES[failure]))
        self._send(pb.InferenceResponse(output_tensors=[], error=error), is_final=True)

    def is_cancelled(self) -> bool:
        """Whether the client cancelled or disconnected."""
        return bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, is_final: bool) -> None:
        try:
            self._sender.send(response, flags=_FINAL if is_final else 0)
        except pb.TritonModelException as error:
            raise StreamClosed(str(error)) from error


class TritonPythonModel:
    """The entry point that tritonserver's Python backend looks for, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the engine; an exception here stops the server."""
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        self._lifeline = Lifeline()
        try:
            check_numpy()
            folder = Path(args["model_repository"]) / args["model_version"]
            config = EngineConfig.model_validate_json((folder / "engine.json").read_text())
            logging.getLogger().setLevel(config.log_level.upper())
            loaded = self.load(config)
            warm_up(loaded.provider)
            if loaded.draft is not None:
                warm_up(loaded.draft)
            self._link = draft_link(config, loaded, clock=time.monotonic)
            engine = Engine(
                loaded.provider,
                limits=limits(config),
                eos_token_ids=loaded.eos_token_ids,
                speculation=speculation(config, loaded, clock=time.perf_counter, link=self._link),
            )
        except Exception as error:
            # Whatever it is, the person who started the server must hear it as one line, not only as a traceback.
            self._lifeline.say(f"cannot load the model: {error}")
            raise
        parent = os.getppid()
        self._metrics = EngineMetrics(
            config.served_model_name, loaded.expert_load, proposes=engine.stats().speculation is not None
        )
        self._metrics.publish(engine.stats())
        self._worker = EngineWorker(
            engine,
            clock=time.monotonic,
            vocabulary=loaded.vocabulary,
            on_stats=self._metrics.publish,
            on_crash=self._crash,
            on_busy=self._lifeline.set_busy,
            is_orphaned=lambda: os.getppid() != parent,
            on_orphaned=lambda: os._exit(1),
        )
        self._worker.start()
        if self._link is not None:
            self._link.start()

    def load(self, config: EngineConfig) -> Loaded:
        """The provider to serve with."""
        return load(config)

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue requests; their responses come from the engine's thread."""
        for request in requests:
            stream = TritonStream(request.get_response_sender())
            try:
                self._worker.submit(_submission(request, stream))
            except ValueError as error:
                stream.fail(Failure.INVALID, str(error))

    def finalize(self) -> None:
        """tritonserver is about to end this process; it has waited for running streams."""
        if not self._worker.stop(_STOP_SECONDS):
            logging.getLogger(__name__).warning("the engine's step did not end in %.0f s", _STOP_SECONDS)
        if self._link is not None:
            self._link.close()
        self._metrics.close()

    def _crash(self, error: BaseException) -> None:
        """The engine's state is unknown: end the process, so that a fresh one is started."""
        self._lifeline.say(f"the engine failed: {type(error).__name__}: {error}")
        os._exit(1)


def check_numpy() -> None:
    """Raise RuntimeError where tensors would be read wrong."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise RuntimeError(
            f"numpy ({np.__version__}) must be older than 2: tritonserver's Python backend reads and writes wrong "
            "values with a newer one; install 'numpy<2'"
        )


def _submission(request: Any, stream: TritonStream) -> Submission:
    """Parse a request's tensors. Raises ValueError with field, value and rule."""
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    prompt_ids: list[int] = tensors[wire.INPUT_IDS].reshape(-1).tolist()
    text: bytes = tensors[wire.REQUEST].reshape(-1)[0]
    try:
        return Submission(prompt_ids, GenerateRequest.model_validate_json(text), stream)
    except ValidationError as error:
        raise ValueError(f"{wire.REQUEST}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = json.loads(error.json(include_url=False, include_context=False))[0]
    field = ".".join(map(str, problem["loc"])) or "JSON"
    return f"{field} ({json.dumps(problem['input'])[:100]}): {problem['msg']}"
