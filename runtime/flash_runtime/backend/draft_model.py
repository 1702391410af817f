"""The model that a draft's tritonserver loads: an adapter between its calls and the draft's thread. Decides nothing."""

from __future__ import annotations

import logging
import os
import sys
import time
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from pydantic import ValidationError

from flash_api.config.draft import DraftConfig
from flash_runtime.backend.delivery import StreamClosed
from flash_runtime.backend.draft_metrics import DraftMetrics
from flash_runtime.backend.draft_worker import DraftWorker
from flash_runtime.backend.lifeline import Lifeline
from flash_runtime.backend.load import Loaded, load_alone, warm_up
from flash_runtime.backend.model import check_numpy
from flash_runtime.draft_wire import GUESSES, HELLO, NEWS, WELCOME, Hello, Welcome
from flash_runtime.engine.draft_server import DraftServer

_STOP_SECONDS = 5.0
_MAX_STREAMS = 64


class TritonLine:
    """The responses to one request, through the sender that tritonserver gave us."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def welcome(self, welcome: Welcome, *, is_last: bool) -> None:
        """The answer to a hello."""
        content = np.array([welcome.model_dump_json().encode()], dtype=np.object_)  # [1]
        self._send(pb.Tensor(WELCOME, content), is_last=is_last)

    def guesses(self, flat: array[int], *, is_last: bool) -> None:
        """Guesses, as draft_wire has them."""
        self._send(pb.Tensor(GUESSES, np.frombuffer(flat, dtype=np.int32)), is_last=is_last)

    def fail(self, message: str) -> None:
        """End the request with an error."""
        error = pb.TritonError(message, pb.TritonError.INVALID_ARG)
        self._respond(pb.InferenceResponse(output_tensors=[], error=error), is_last=True)

    def is_cancelled(self) -> bool:
        """Whether the engine has left."""
        return bool(self._sender.is_cancelled())

    def _send(self, tensor: Any, *, is_last: bool) -> None:
        self._respond(pb.InferenceResponse([tensor]), is_last=is_last)

    def _respond(self, response: Any, *, is_last: bool) -> None:
        try:
            self._sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0)
        except pb.TritonModelException as error:
            raise StreamClosed(str(error)) from error


class TritonPythonModel:
    """The entry point that tritonserver's Python backend looks for, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the thread; an exception here stops the server."""
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        self._lifeline = Lifeline()
        try:
            check_numpy()
            folder = Path(args["model_repository"]) / args["model_version"]
            config = DraftConfig.model_validate_json((folder / "draft.json").read_text())
            logging.getLogger().setLevel(config.log_level.upper())
            loaded = self.load(config)
            warm_up(loaded.provider)
            server = DraftServer(loaded.provider, max_sequences=config.max_sequences, clock=time.monotonic)
        except Exception as error:
            # Whatever it is, the person who started the server must hear it as one line, not only as a traceback.
            self._lifeline.say(f"cannot load the draft: {error}")
            raise
        parent = os.getppid()
        self._metrics = DraftMetrics(config.served_model_name)
        self._metrics.publish(server.stats())
        self._worker = DraftWorker(
            server,
            tokenizer=loaded.vocabulary,
            revision=config.rollout_revision,
            max_streams=_MAX_STREAMS,
            clock=time.monotonic,
            on_stats=self._metrics.publish,
            on_crash=self._crash,
            is_stopping=self._lifeline.is_stopping,
            is_orphaned=lambda: os.getppid() != parent,
            on_orphaned=lambda: os._exit(1),
        )
        self._worker.start()

    def load(self, config: DraftConfig) -> Loaded:
        """The provider to propose with."""
        return load_alone(config)

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue messages; their answers come from the draft's thread."""
        for request in requests:
            line = TritonLine(request.get_response_sender())
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            if NEWS in tensors:
                self._worker.news(request.request_id(), tensors[NEWS].reshape(-1).tolist(), line)
                continue
            try:
                hello = Hello.model_validate_json(tensors[HELLO].reshape(-1)[0])
            except (KeyError, ValidationError) as error:
                line.fail(f"a request must carry {NEWS} or {HELLO}: {type(error).__name__}")
            else:
                self._worker.hello(request.request_id(), hello, line)

    def finalize(self) -> None:
        """tritonserver is about to end this process; its streams have ended."""
        if not self._worker.stop(_STOP_SECONDS):
            logging.getLogger(__name__).warning("the draft's step did not end in %.0f s", _STOP_SECONDS)
        self._metrics.close()

    def _crash(self, error: BaseException) -> None:
        """Its state is unknown: end the process, so that a fresh one is started."""
        self._lifeline.say(f"the draft failed: {type(error).__name__}: {error}")
        os._exit(1)
