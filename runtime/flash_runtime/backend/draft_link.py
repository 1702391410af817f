"""The engine's way to a draft: one gRPC stream, kept up by a thread of its own. Implements `engine.remote.Link`.

Goes from address to address until a draft of the same tokenizer and revision takes it, and again when that one is
lost. Knows messages and connections; nothing about tokens.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flash_api.names import TRITON_DRAFT_MODEL
from flash_runtime.draft_wire import (
    GUESSES,
    HELLO,
    NEWS,
    WELCOME,
    DraftWireError,
    Guesses,
    Hello,
    News,
    Welcome,
    decode_guesses,
    encode_news,
)
from flash_runtime.engine.proposals import Fallback, ProposerError

BACKOFF_SECONDS: Final = (0.1, 5.0)
"""Between two rounds over all addresses: at first, and at most."""
SILENCE_SECONDS: Final = 2.0
"""A draft that owes an answer for so long, or a welcome, is left."""
_BYTES_LENGTH: Final = 4
_OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A node that vanished answers no pings.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_REFUSALS: Final = {
    "tokenizer": Fallback.TOKENIZER,
    "revision": Fallback.REVISION,
    "protocol": Fallback.REVISION,
    "overloaded": Fallback.OVERLOADED,
}

_log = logging.getLogger(__name__)

Resolve = Callable[[str], Sequence[str]]


class _Lost(Exception):
    """A conversation is over: why, and as what it counts."""

    def __init__(self, message: str, reason: Fallback = Fallback.DISCONNECTED) -> None:
        super().__init__(message)
        self.reason = reason


class DraftLink:
    """One draft at a time, of those behind the endpoints."""

    def __init__(
        self,
        endpoints: Sequence[str],
        hello: Hello,
        *,
        clock: Callable[[], float],
        draw: Random,
        resolve: Resolve,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`resolve`: the addresses behind an endpoint, none while there are none. `draw` spreads engines over them."""
        self._endpoints = endpoints
        self._hello = hello
        self._clock = clock
        self._draw = draw
        self._resolve = resolve
        self._silence_seconds = silence_seconds
        self._epoch = 0
        self._is_open = False
        self._reason = Fallback.DISCONNECTED
        self._stream = ""
        self._inbox: queue.SimpleQueue[list[Guesses] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call: Any = None
        self._owed_since: float | None = None
        self._mismatches: dict[str, str] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="draft link", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self) -> None:
        """Let go of the draft and end the thread."""
        self._closing.set()
        if (call := self._call) is not None:
            call.cancel()
        self._thread.join()

    @property
    def epoch(self) -> int:
        """Grows with each connection."""
        return self._epoch

    def send(self, news: Sequence[News]) -> None:
        """Pass news on; who owes an answer for too long is left. Raises ProposerError without a draft."""
        now = self._clock()
        if self._owed_since is not None and now - self._owed_since > self._silence_seconds:
            self._owed_since = now  # the thread that reads takes it from here
            if (call := self._call) is not None:
                call.cancel()
        if not self._is_open:
            raise ProposerError("no draft is connected", self._reason)
        if self._owed_since is None:
            self._owed_since = now
        self._outbox.put(_request(self._stream, NEWS, "INT32", encode_news(news)))

    def receive(self, timeout_seconds: float) -> list[Guesses] | None:
        """The next message; None when none comes in time. Raises ProposerError when the draft is gone."""
        try:
            guesses = self._inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if guesses is None:
            raise ProposerError("the draft is gone", Fallback.DISCONNECTED)
        return guesses

    def _run(self) -> None:
        backoff, most = BACKOFF_SECONDS
        while not self._closing.is_set():
            lost = [self._visit(address) for address in self._addresses() if not self._closing.is_set()]
            met_one = any(epoch for _, epoch in lost)
            reasons = [reason for reason, _ in lost]
            # Named only where every draft refuses for the same reason: otherwise one is starting or gone.
            self._reason = reasons[0] if reasons and len(set(reasons)) == 1 else Fallback.DISCONNECTED
            backoff = BACKOFF_SECONDS[0] if met_one else min(2 * backoff, most)
            self._closing.wait(backoff * (0.5 + self._draw.random()))

    def _addresses(self) -> list[str]:
        """Every address once, in an order of this engine's own; those that refused last time come last."""
        found = sorted({address for endpoint in self._endpoints for address in self._resolve(endpoint)})
        self._draw.shuffle(found)
        self._mismatches = {address: why for address, why in self._mismatches.items() if address in found}
        return sorted(found, key=lambda address: address in self._mismatches)

    def _visit(self, address: str) -> tuple[Fallback, bool]:
        """Talk to one draft until that is over: as what it counts, and whether it had welcomed us."""
        before = self._epoch
        try:
            with grpc.insecure_channel(address, options=_OPTIONS) as channel:
                self._converse(address, service_pb2_grpc.GRPCInferenceServiceStub(channel))
        except _Lost as lost:
            why, reason = str(lost), lost.reason
        except grpc.RpcError as error:
            why, reason = f"{error.code().name}: {error.details()}", Fallback.DISCONNECTED
        except DraftWireError as error:
            why, reason = str(error), Fallback.INVALID
        finally:
            self._is_open, self._call, self._owed_since = False, None, None
            self._outbox.put(None)
            self._inbox.put(None)
        was_met = self._epoch != before
        if not self._closing.is_set() and (was_met or self._mismatches.get(address) != why):
            _log.warning("draft %s: %s", address, why)
            self._mismatches[address] = why
        return reason, was_met

    def _converse(self, address: str, stub: Any) -> None:
        outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox, self._stream = outbox, f"{self._draw.getrandbits(64):016x}"
        self._owed_since = self._clock()
        outbox.put(_request(self._stream, HELLO, "BYTES", _sized(self._hello.model_dump_json().encode())))
        self._call = stub.ModelStreamInfer(iter(outbox.get, None))
        if self._closing.is_set():
            self._call.cancel()
        for message in self._call:
            if message.error_message:
                raise _Lost(message.error_message)
            response = message.infer_response
            for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
                if output.name == WELCOME:
                    self._welcomed(address, content[_BYTES_LENGTH:])
                elif output.name == GUESSES and self._is_open:
                    self._owed_since = None
                    self._inbox.put(decode_guesses(content))
        raise _Lost("the draft ended the stream")

    def _welcomed(self, address: str, text: bytes) -> None:
        try:
            welcome = Welcome.model_validate_json(text)
        except ValidationError as error:
            raise _Lost("its welcome is not of this protocol", Fallback.REVISION) from error
        for field in ("protocol", "tokenizer", "revision"):
            ours, theirs = getattr(self._hello, field), getattr(welcome, field)
            if ours != theirs:
                raise _Lost(f"has another {field} ({theirs}) than this engine ({ours})", _REFUSALS[field])
        if welcome.refused:
            raise _Lost(f"refused: {welcome.refused}", _REFUSALS.get(welcome.refused, Fallback.DISCONNECTED))
        self._inbox = queue.SimpleQueue()
        self._owed_since = None
        self._epoch += 1
        self._mismatches.pop(address, None)
        self._is_open = True
        _log.info("draft %s proposes", address)


def _request(stream: str, name: str, datatype: str, content: bytes) -> Any:
    request = service_pb2.ModelInferRequest(model_name=TRITON_DRAFT_MODEL, id=stream)
    size = len(content) // 4 if datatype == "INT32" else 1
    request.inputs.add(name=name, datatype=datatype, shape=[size])
    request.raw_input_contents.append(content)
    return request


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(_BYTES_LENGTH, "little") + content


def resolve(endpoint: str, hosts_file: Path | None = None) -> list[str]:
    """Addresses behind `host:port`: of its line in the hosts file where there is one, otherwise of the system's names.

    None while the name is not known: drafts come and go.
    """
    if hosts_file is not None and hosts_file.is_file():
        for line in hosts_file.read_text().splitlines():
            name, *addresses = line.split("#", 1)[0].split() or [""]
            if name == endpoint:
                return addresses
    host, _, port = endpoint.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({f"[{name[0]}]:{port}" if ":" in str(name[0]) else f"{name[0]}:{port}" for *_, name in found})
