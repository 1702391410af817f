"""The answer of an OpenAI endpoint, against a small real server."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flash_operator.local.chat import Answer, ChatError, Question, Timing, stream

QUESTION = Question([{"role": "user", "content": "Hi"}], max_tokens=8, temperature=0.0)


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


LAST = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 5}}


@contextmanager
def endpoint(*events: object, status: int = 200, done: bool = True) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every request with these events; its base URL and the requests it got."""
    requests: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
            self.send_response(status)
            self.end_headers()
            if status != 200:
                self.wfile.write(json.dumps(events[0]).encode())
                return
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n" if done else b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", requests
        finally:
            server.shutdown()
            serving.join()


def asked(url: str, answer: Answer, *, api_key: str | None = None) -> list[str]:
    ticks = itertools.count(0, 0.5)
    return list(
        stream(
            url, QUESTION, model="chat", api_key=api_key, clock=lambda: next(ticks), answer=answer, timeout_seconds=5
        )
    )


def test_pieces_come_one_by_one_and_the_timing_is_of_real_tokens() -> None:
    answer = Answer()
    with endpoint(piece("Par"), piece("is"), piece("."), LAST, USAGE) as (url, requests):
        assert asked(url, answer, api_key="sk-1") == ["Par", "is", "."]
    assert (answer.text, answer.finish_reason) == ("Paris.", "stop")
    # Looks at the clock: at the start, then at each piece, half a second apart.
    assert answer.timing == Timing(first_token_seconds=0.5, tokens=5, tokens_per_second=4.0)
    assert str(answer.timing) == "first token 500 ms · 5 tokens · 4 tokens/s"
    assert requests[0]["path"] == "/v1/chat/completions"
    assert requests[0]["key"] == "Bearer sk-1"
    assert (requests[0]["model"], requests[0]["stream"]) == ("chat", True)


def test_one_token_has_no_rate() -> None:
    answer = Answer()
    with endpoint(piece("Yes"), LAST) as (url, _):
        asked(url, answer)
    assert str(answer.timing) == "first token 500 ms · 1 tokens"


def test_a_refusal_is_told_in_the_endpoints_own_words() -> None:
    with (
        endpoint({"error": {"message": "the prompt is too long"}}, status=400) as (url, _),
        pytest.raises(ChatError, match="400: the prompt is too long"),
    ):
        asked(url, Answer())


def test_a_wrong_key_says_where_to_give_one() -> None:
    with (
        endpoint({"error": {"message": "no such key"}}, status=401) as (url, _),
        pytest.raises(ChatError, match="FLASHPLANE_API_KEY"),
    ):
        asked(url, Answer())


def test_an_error_in_the_middle_and_an_answer_without_end_are_errors() -> None:
    with (
        endpoint(piece("Pa"), {"error": {"message": "lost"}}) as (url, _),
        pytest.raises(ChatError, match="lost"),
    ):
        asked(url, Answer())
    with endpoint(piece("Pa"), done=False) as (url, _), pytest.raises(ChatError, match="broke off"):
        asked(url, Answer())


def test_nobody_there_is_an_error_with_the_address() -> None:
    with pytest.raises(ChatError, match=r"http://127\.0\.0\.1:1/v1 did not answer"):
        asked("http://127.0.0.1:1/v1", Answer())
