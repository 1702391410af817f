"""How one stream ends, against a server that writes what a test wants."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from flash_operator.traffic.stream import Ending, Endpoint, Question, Stream, TrafficError, ask, served_model

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def piece(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@contextmanager
def answering(answer: bytes) -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
                if b"content-length: " in head.lower() and not body:
                    connection.recv(65536)  # the body comes in a packet of its own
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "chat", "sk-1")
        thread.join()


def asked(answer: bytes, ticks: Iterable[float] | None = None) -> Stream:
    clock = iter(ticks or itertools.count())
    with answering(answer) as endpoint:
        return ask(endpoint, Question("a secret", 8), lambda: float(next(clock)))


WHOLE = HEAD + piece("Hel") + piece("lo") + piece("", "stop") + DONE


def test_a_whole_stream_leaves_a_digest_and_times() -> None:
    stream = asked(WHOLE)
    assert (stream.ending, stream.num_pieces, stream.cause) == (Ending.WHOLE, 2, "")
    assert (stream.first_token_seconds, stream.per_token_seconds) == (1.0, 1.0)
    assert stream.longest_pause_seconds == 1.0
    # How a text is cut into pieces is not part of it; why it ended is.
    assert asked(HEAD + piece("Hello", "stop") + DONE).digest == stream.digest
    assert asked(HEAD + piece("Hello", "length") + DONE).digest != stream.digest
    assert asked(HEAD + piece("Hullo", "stop") + DONE).digest != stream.digest


@pytest.mark.parametrize(
    ("ticks", "longest"),
    [((0.0, 3.0, 4.0), 3.0), ((0.0, 1.0, 6.0), 5.0)],
    ids=["before the first token", "between two"],
)
def test_the_longest_time_without_a_token_is_told(ticks: tuple[float, ...], longest: float) -> None:
    assert asked(WHOLE, ticks).longest_pause_seconds == longest


@pytest.mark.parametrize(
    ("answer", "ending", "cause"),
    [
        (HEAD + piece("Hel"), Ending.TRUNCATED, "the connection ended"),
        (HEAD + piece("Hel") + DONE, Ending.TRUNCATED, "no finish reason"),
        (HEAD + piece("Hel") + b'data: {"error": {"code": "engine_failed"}}\n\n', Ending.TRUNCATED, "engine_failed"),
        (HEAD + piece("Hel") + b"data: Hel\n\n", Ending.TRUNCATED, "an event that is no JSON"),
        (HEAD, Ending.FAILED, "the connection ended"),
        (b"", Ending.FAILED, "RemoteDisconnected"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Ending.FAILED, "HTTP 503"),
        (
            b"HTTP/1.1 429 No\r\nConnection: close\r\n\r\n"
            b'{"error": {"code": "rate_limit_exceeded", "message": "a secret"}}',
            Ending.FAILED,
            "HTTP 429 rate_limit_exceeded",
        ),
    ],
)
def test_what_does_not_come_through_says_why_and_repeats_no_message(answer: bytes, ending: Ending, cause: str) -> None:
    stream = asked(answer)
    assert (stream.ending, stream.cause) == (ending, cause)


def test_an_endpoint_that_is_not_there_is_a_failed_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "chat")
    assert ask(endpoint, Question("x", 1), lambda: 0.0).cause == "ConnectionRefusedError"
    with pytest.raises(TrafficError, match="--base-url"):
        served_model(endpoint.base_url, None)


def test_the_model_is_asked_for() -> None:
    body = b'{"data": [{"id": "chat"}]}'
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as endpoint:
        assert served_model(endpoint.base_url, None) == "chat"


@pytest.mark.parametrize("url", ["127.0.0.1:8080/v1", "ftp://host/v1", "http:///v1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TrafficError, match=r"must be a URL such as http://127.0.0.1:8080/v1"):
        served_model(url, None)
