"""Everything that goes wrong comes in OpenAI's envelope, names the parameter and says what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fakes.scripted_engine import MODEL, ScriptedEngine, Stack, a_chat, a_stack
from fakes.tiny_text import text_assets

from flash_runtime.gateway import routes
from flash_runtime.gateway.engine import (
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


async def refused(stack: Stack, path: str = CHAT, *, method: str = "POST", **request: Any) -> tuple[Any, Any]:
    """The response and its error, after checking the envelope."""
    async with stack.client() as client:
        response = await client.request(method, path, **request)
    assert response.status_code >= 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return response, error


@pytest.mark.parametrize(
    ("fields", "param", "code", "says"),
    [
        ({"temperature": 3}, "temperature", "invalid_value", "temperature (3) must be less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "invalid_type", "temperature (hot) must be a valid number"),
        ({"top_p": -0.1}, "top_p", "invalid_value", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type", "must be a valid integer"),
        ({"max_tokens": 5000}, "max_tokens", "invalid_value", "max_tokens (5000) must not exceed 4096 here"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", "invalid_value", "must not exceed 4096"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value", "only one of them"),
        ({"n": 5}, "n", "invalid_value", "n (5) must not exceed 4 here"),
        ({"seed": 2**64}, "seed", "invalid_value", "seed"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value", "at most 4 strings, not 5"),
        ({"stop": ""}, "stop", "invalid_value", "1 to 1024 characters"),
        ({"stop": 7}, "stop", "invalid_value", "must be a string or a list"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "stream: true"),
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter", "frobnicate is not a known parameter; remove it"),
        ({"messages": []}, "messages", "invalid_value", "at least 1 item"),
        ({"messages": "hi"}, "messages", "invalid_type", "list"),
        ({"messages": [7]}, "messages.0", "invalid_type", "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter", "is required"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value", "'system'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "invalid_type", "null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
            "invalid_value",
            "part of type image_url; only text parts",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "bob"}]},
            "messages.0.name",
            "unsupported_parameter",
            "put the name into the content",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "not offered yet"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter", "not offered yet"),
        ({"logprobs": 2}, "logprobs", "invalid_type", "logprobs (2) must be a valid boolean"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value", "top_logprobs (2) may only be sent with logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value", "(21) must be less than or equal to"),
        ({"logit_bias": [5]}, "logit_bias", "invalid_value", "must be an object of token ids and biases"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "invalid_value", 'has the key "hello"; keys must be token ids'),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value", 'must give "5" a number from -100 to 100'),
        ({"logit_bias": {"5": True}}, "logit_bias", "invalid_value", 'must give "5" a number from -100 to 100'),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value", "at most 1024 token ids"),
        ({"logit_bias": {"400": 1}}, "logit_bias", "invalid_value", "logit_bias holds token id 400; ids must be 0 to"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value", "stop_token_ids holds token id -1"),
        ({"stop_token_ids": [1] * 33}, "stop_token_ids", "invalid_value", "at most 32 items"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value", "(2.1) must be less than or equal to 2"),
        ({"presence_penalty": -3}, "presence_penalty", "invalid_value", "(-3) must be greater than or equal to -2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value", "(0) must be greater than or equal to 0.1"),
        ({"min_p": 1.5}, "min_p", "invalid_value", "min_p (1.5) must be less than or equal to 1"),
        ({"store": True}, "store", "unsupported_parameter", "never stored"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter", "only text"),
    ],
)
async def test_a_bad_chat_field_is_refused_by_name(fields: Any, param: str, code: str, says: str) -> None:
    stack = a_stack()
    response, error = await refused(stack, json=a_chat(**fields))
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert says in error["message"]
    assert not stack.engine.requests


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "prompt", "prompt is required"),
        ({"prompt": ""}, "prompt", "at least one token"),
        ({"prompt": []}, "prompt", "and not empty"),
        ({"prompt": [1, "x"]}, "prompt", "must be a string, a list of token ids"),
        ({"prompt": [999]}, "prompt", "token id 999; ids must be 0 to "),
        ({"prompt": [-1]}, "prompt", "token id -1"),
        ({"prompt": ["x"] * 65}, "prompt", "at most 64 prompts, not 65"),
        ({"prompt": "x", "echo": True}, "echo", "prepend it yourself"),
        ({"prompt": "x", "best_of": 2}, "best_of", "use n"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "logprobs (true) must be a valid integer"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "logprobs (21) must be less than or equal to 20"),
        ({"prompt": "x", "top_logprobs": 2}, "top_logprobs", "not a known parameter"),
        ({"prompt": "x", "messages": []}, "messages", "not a known parameter"),
    ],
)
async def test_a_bad_completion_field_is_refused_by_name(fields: Any, param: str, says: str) -> None:
    response, error = await refused(a_stack(), TEXT, json={"model": MODEL, **fields})
    assert (response.status_code, error["param"]) == (400, param)
    assert says in error["message"]


async def test_an_unknown_model_is_not_found_and_the_served_one_named() -> None:
    for path, body in ((CHAT, a_chat(model="gpt-5")), (TEXT, {"model": "gpt-5", "prompt": "x"})):
        response, error = await refused(a_stack(), path, json=body)
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "`gpt-5` does not exist here; use `tiny`" in error["message"]
    response, error = await refused(a_stack(), "/v1/models/gpt-5", method="GET")
    assert (response.status_code, error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, a_chat(messages=[{"role": "user", "content": "hello " * 600}])),
        (CHAT, a_chat(max_tokens=510)),
        (TEXT, {"model": MODEL, "prompt": [7] * 512}),
        (TEXT, {"model": MODEL, "prompt": [7] * 500, "max_tokens": 13}),
    ],
)
async def test_a_prompt_that_does_not_fit_is_refused_with_its_numbers(path: str, body: Any) -> None:
    stack = a_stack()
    response, error = await refused(stack, path, json=body)
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "context is 512 tokens; the request has " in error["message"]
    assert "Shorten" in error["message"]
    assert not stack.engine.requests


async def test_the_smaller_of_the_configured_and_the_models_context_counts() -> None:
    _, error = await refused(a_stack(max_context_tokens=64), json=a_chat(max_tokens=60))
    assert "context is 64 tokens" in error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a":NaN}', b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000],
)
async def test_invalid_json_is_refused(body: bytes) -> None:
    response, error = await refused(a_stack(), content=body, headers={"content-type": "application/json"})
    assert (response.status_code, error["code"]) == (400, "invalid_json")
    assert "not valid JSON" in error["message"]


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"7"])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    response, error = await refused(a_stack(), content=body, headers={"content-type": "application/json"})
    assert (response.status_code, error["message"]) == (400, "The body must be a JSON object.")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused(content_type: str) -> None:
    response, error = await refused(a_stack(), content=b"{}", headers={"content-type": content_type})
    assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
    assert "must be application/json" in error["message"]


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    stack = a_stack(limits={"max_body_bytes": 1024})
    response, error = await refused(stack, json=a_chat(user="x" * 2000))
    assert (response.status_code, error["code"]) == (413, "request_too_large")
    assert "1024 bytes" in error["message"]


async def test_a_body_of_unknown_size_is_refused_while_it_is_read() -> None:
    sent = []

    async def endless() -> Any:
        for _ in range(10_000):
            sent.append(1)
            yield b" " * 512

    stack = a_stack(limits={"max_body_bytes": 1024})
    response, _ = await refused(stack, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert len(sent) < 10


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.05)

    async def hanging() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    response, error = await refused(a_stack(), content=hanging(), headers={"content-type": "application/json"})
    assert (response.status_code, error["code"]) == (408, "request_timeout")


async def test_routes_and_methods_that_do_not_exist_are_refused_in_the_envelope() -> None:
    response, error = await refused(a_stack(), "/v1/embeddings", json={})
    assert (response.status_code, error["code"]) == (404, "not_found")
    response, error = await refused(a_stack(), CHAT, method="GET")
    assert (response.status_code, error["code"]) == (405, "method_not_allowed")
    assert "use POST" in error["message"]
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("signs_of_life", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code", "retry"),
    [
        (EngineUnavailable("x"), 503, "engine_unavailable", True),
        (EngineOverloaded("x"), 503, "server_is_overloaded", True),
        (EngineFailed("x"), 503, "engine_failed", True),
        (EngineStalled("nothing for 30 s"), 504, "engine_stalled", False),
        (EngineRefused("max_tokens (9) is wrong"), 400, "engine_refused", False),
    ],
)
async def test_a_failure_before_the_first_token_has_its_own_status(
    failure: EngineError, status: int, code: str, retry: bool, stream: bool, signs_of_life: int
) -> None:
    stack = a_stack(ScriptedEngine(failure=failure, signs_of_life=signs_of_life))
    response, error = await refused(stack, json=a_chat(stream=stream))
    assert (response.status_code, error["code"]) == (status, code)
    assert ("retry-after" in response.headers) == retry


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_may_not_leave_its_regions_is_told_which_they_are(stream: bool) -> None:
    stack = a_stack(ScriptedEngine(failure=EngineUnavailable("x")), regions=("eu-central", "eu-west"))
    response, error = await refused(stack, json=a_chat(stream=stream))
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "no_engine_in_region")
    assert error["message"].startswith("No engine in eu-central, eu-west can be reached")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("failure", [EngineOverloaded("x"), EngineFailed("x")])
async def test_an_engine_of_the_region_that_is_there_is_not_called_absent(failure: EngineError) -> None:
    _, error = await refused(a_stack(ScriptedEngine(failure=failure), regions=("eu",)), json=a_chat())
    assert error["code"] in ("server_is_overloaded", "engine_failed")


async def test_a_chat_the_template_refuses_is_the_callers_fault() -> None:
    assets = text_assets(chat_template="{{ raise_exception('roles must alternate') }}")
    response, error = await refused(a_stack(assets=assets), json=a_chat())
    assert (response.status_code, error["param"]) == (400, "messages")
    assert "roles must alternate" in error["message"]


async def test_a_template_that_fails_is_the_servers_fault() -> None:
    response, error = await refused(a_stack(assets=text_assets(chat_template="{{ 1 / 0 }}")), json=a_chat())
    assert (response.status_code, error["code"]) == (500, "chat_template_failed")


async def test_a_request_that_takes_too_long_ends() -> None:
    stack = a_stack(ScriptedEngine(block_after=0), limits={"request_timeout_seconds": 1})
    response, error = await refused(stack, json=a_chat())
    assert (response.status_code, error["code"]) == (504, "request_timeout")
    assert stack.engine.num_cancelled == 1
