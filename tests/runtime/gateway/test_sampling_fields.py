"""How a request samples and what it is told about probabilities: from OpenAI's fields to the engine, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.scripted_engine import MODEL, ScriptedEngine, Stack, a_chat, a_stack
from fakes.tiny_text import EOS_ID, text_assets

from flash_runtime.gateway.engine import Chunk
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.wire import GenerateRequest

TEXT = "hello world, how are you? 😀 é the quick brown fox"
TOKENIZER = Tokenizer(text_assets())
IDS = TOKENIZER.encode(TEXT)
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
PATHS = {CHAT: a_chat(), COMPLETION: {"model": MODEL, "prompt": "hello", "max_tokens": 99}}


async def post(stack: Stack, path: str, **fields: Any) -> Any:
    async with stack.client() as client:
        response = await client.post(path, json={**PATHS[path], **fields})
    assert response.status_code == 200, response.text
    return response.json()["choices"]


async def stream(stack: Stack, path: str, **fields: Any) -> list[Any]:
    """The choice of every event."""
    async with stack.client() as client:
        response = await client.post(path, json={**PATHS[path], **fields, "stream": True})
    assert response.status_code == 200, response.text
    data = [event.removeprefix("data: ") for event in response.text.strip().split("\n\n")]
    assert data.pop() == "[DONE]"
    return [json.loads(one)["choices"][0] for one in data]


@pytest.mark.parametrize("path", PATHS)
async def test_what_was_asked_for_reaches_the_engine(path: str) -> None:
    stack = a_stack()
    asked = {
        "min_p": 0.05,
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "repetition_penalty": 1.1,
        "top_k": 9,
    }
    await post(stack, path, **asked, logit_bias={"5": -100, "7": 2.5}, stop_token_ids=[8, 9])
    request = stack.engine.requests[0][1]
    assert request.model_dump(include=set(asked)) == asked
    assert request.logit_bias == {5: -100.0, 7: 2.5}
    assert request.stop_token_ids == (EOS_ID, 8, 9)
    assert request.logprobs is None


@pytest.mark.parametrize(
    ("path", "fields", "num_top"),
    [
        (CHAT, {"logprobs": False}, None),
        (CHAT, {"logprobs": False, "top_logprobs": 0}, None),
        (CHAT, {"logprobs": True}, 0),
        (CHAT, {"logprobs": True, "top_logprobs": 20}, 20),
        (COMPLETION, {"logprobs": None}, None),
        (COMPLETION, {"logprobs": 0}, 0),
        (COMPLETION, {"logprobs": 5}, 5),
    ],
)
async def test_each_endpoint_asks_for_probabilities_in_its_own_way(
    path: str, fields: dict[str, Any], num_top: int | None
) -> None:
    stack = a_stack()
    (choice,) = await post(stack, path, **fields)
    assert stack.engine.requests[0][1].logprobs == num_top
    assert (choice["logprobs"] is None) == (num_top is None)


async def test_end_tokens_are_ignored_on_request_but_not_the_requests_own() -> None:
    stack = a_stack()
    await post(stack, CHAT, ignore_eos=True, stop_token_ids=[8])
    assert stack.engine.requests[0][1].stop_token_ids == (8,)


async def test_a_chats_probabilities_have_openais_form_and_spell_the_answer_byte_by_byte() -> None:
    (choice,) = await post(a_stack(ScriptedEngine(TEXT)), CHAT, logprobs=True, top_logprobs=2)
    assert choice["logprobs"].keys() == {"content", "refusal"}
    content = choice["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == [-id_ / 100 for id_ in IDS]
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == choice["message"]["content"] == TEXT
    for entry, id_ in zip(content, IDS, strict=True):
        assert entry["token"] == TOKENIZER.spell(id_).decode(errors="replace")
        assert [other["bytes"] for other in entry["top_logprobs"]] == [
            list(TOKENIZER.spell(id_ + index)) for index in range(2)
        ]
        assert entry["top_logprobs"][0] == {key: entry[key] for key in ("token", "logprob", "bytes")}


async def test_a_completions_probabilities_have_openais_form_and_point_into_the_text() -> None:
    (choice,) = await post(a_stack(ScriptedEngine("hello, fox")), COMPLETION, logprobs=2)
    logprobs = choice["logprobs"]
    ids = TOKENIZER.encode("hello, fox")
    assert "".join(logprobs["tokens"]) == choice["text"] == "hello, fox"
    assert logprobs["token_logprobs"] == [-id_ / 100 for id_ in ids]
    for token, logprob, top, offset in zip(*(logprobs[key] for key in logprobs), strict=True):
        assert choice["text"][offset:].startswith(token)
        assert top[token] == logprob
        assert len(top) == 2


async def test_offsets_count_characters_even_where_tokens_are_parts_of_one() -> None:
    (choice,) = await post(a_stack(ScriptedEngine("a😀b")), COMPLETION, logprobs=0)
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 1, 2]
    assert choice["logprobs"]["tokens"] == ["a", *"\ufffd\ufffd\ufffd\ufffd", "b"]


@pytest.mark.parametrize("tokens_per_chunk", [1, 3])
@pytest.mark.parametrize("fields", [{}, {"max_tokens": 5}, {"stop": "brown"}, {"stop": "d, h"}])
async def test_a_stream_tells_the_same_probabilities_as_the_whole_answer(
    fields: dict[str, Any], tokens_per_chunk: int
) -> None:
    for path, ask in ((CHAT, {"logprobs": True, "top_logprobs": 3}), (COMPLETION, {"logprobs": 3})):
        stack = a_stack(ScriptedEngine(TEXT, tokens_per_chunk=tokens_per_chunk))
        (whole,) = await post(stack, path, **fields, **ask)
        merged: dict[str, list[Any]] = {}
        for choice in await stream(stack, path, **fields, **ask):
            for key, entries in (choice["logprobs"] or {}).items():
                merged.setdefault(key, []).extend(entries or [])
        expected = {key: entries or [] for key, entries in whole["logprobs"].items()}
        assert merged == expected
        assert merged.get("content") or merged.get("tokens")


async def test_there_are_as_many_probabilities_as_counted_tokens() -> None:
    async with a_stack(ScriptedEngine(TEXT, tokens_per_chunk=99)).client() as client:
        answer = (await client.post(CHAT, json=a_chat(logprobs=True, stop="you?"))).json()
    assert len(answer["choices"][0]["logprobs"]["content"]) == answer["usage"]["completion_tokens"] < len(IDS)


async def test_an_engine_that_forgets_the_probabilities_has_failed() -> None:
    class Forgetful(ScriptedEngine):
        async def generate(self, prompt_ids: Any, request: GenerateRequest) -> Any:
            yield Chunk((5,))

    async with a_stack(Forgetful()).client() as client:
        response = await client.post(CHAT, json=a_chat(logprobs=True))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_failed"
