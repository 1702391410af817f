"""POST /v1/completions and GET /v1/models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.scripted_engine import MODEL, ScriptedEngine, Stack, a_stack
from fakes.tiny_text import text_assets

from flash_runtime.text.tokenizer import Tokenizer

ENCODE = Tokenizer(text_assets()).encode


async def post(stack: Stack, **fields: Any) -> Any:
    async with stack.client() as client:
        response = await client.post("/v1/completions", json={"model": MODEL, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_text_completion_has_openais_form() -> None:
    answer = await post(a_stack(ScriptedEngine("abc")), prompt="hello", max_tokens=50)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": "abc", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["prompt_tokens"] == len(ENCODE("hello"))


async def test_sixteen_tokens_are_the_default() -> None:
    stack = a_stack()
    await post(stack, prompt="hello")
    assert stack.engine.requests[0][1].max_tokens == 16


async def test_less_than_the_default_is_generated_where_less_fits() -> None:
    stack = a_stack(max_context_tokens=64)
    await post(stack, prompt=[7] * 63)
    assert stack.engine.requests[0][1].max_tokens == 1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hello", [ENCODE("hello")]),
        ([5, 6, 7], [[5, 6, 7]]),
        (["hello", "fox"], [ENCODE("hello"), ENCODE("fox")]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["hello", [7]], [ENCODE("hello"), [7]]),
        ("a<|im_end|>", [ENCODE("a<|im_end|>")]),
    ],
)
async def test_a_prompt_may_be_text_or_ids_or_several(prompt: Any, expected: list[list[int]]) -> None:
    stack = a_stack()
    answer = await post(stack, prompt=prompt, n=2)
    assert [list(ids) for ids, _ in stack.engine.requests] == [ids for ids in expected for _ in range(2)]
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


async def test_bos_starts_a_raw_prompt_where_the_model_wants_it() -> None:
    stack = a_stack(assets=text_assets(add_bos=True))
    await post(stack, prompt="")
    assert stack.engine.requests[0][0] == (0,)


async def test_a_stream_joins_to_the_text() -> None:
    stack = a_stack(ScriptedEngine("hello 😀 world"))
    async with stack.client() as client:
        response = await client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "stream": True})
    *events, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == "hello 😀 world"
    assert choices[-1]["finish_reason"] == "stop"


async def test_models_lists_the_served_model() -> None:
    async with a_stack().client() as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get(f"/v1/models/{MODEL}")).json()
    assert listed == {"object": "list", "data": [one]}
    assert one == {"id": MODEL, "object": "model", "created": 1_800_000_000, "owned_by": "flashplane"}


async def test_a_model_without_chat_template_still_completes_text() -> None:
    stack = a_stack(assets=text_assets(chat_template=""))
    assert (await post(stack, prompt="hello"))["choices"][0]["text"]
    async with stack.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        refused = await client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "/v1/completions" in refused.json()["error"]["message"]


async def test_long_prompts_are_tokenized_all_the_same() -> None:
    stack = a_stack(assets=text_assets(max_context_tokens=None))
    text = "hello world " * 3000
    await post(stack, prompt=text)
    assert list(stack.engine.requests[0][0]) == ENCODE(text)
