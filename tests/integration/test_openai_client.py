"""The unmodified `openai` client against the whole local stack: gateway, tritonserver, engine, real weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY_TOKENS = 24


class Stack(Protocol):
    """What the fixture `stack` offers."""

    base_url: str
    api_key: str
    model: str


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.base_url, api_key=stack.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key=stack.api_key, max_retries=0) as client:
        yield client


def test_the_served_model_is_listed(client: openai.OpenAI, stack: Stack) -> None:
    assert [model.id for model in client.models.list()] == [stack.model]
    assert client.models.retrieve(stack.model).owned_by == "flashplane"


def test_a_chat_is_answered_in_words(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(model=stack.model, messages=QUESTION, temperature=0, max_tokens=64)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.model == stack.model
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens < 64
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same(client: openai.OpenAI, stack: Stack) -> None:
    whole = client.chat.completions.create(
        model=stack.model, messages=QUESTION, temperature=0, max_completion_tokens=GREEDY_TOKENS
    )
    stream = client.chat.completions.create(
        model=stack.model,
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=GREEDY_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    usage, expected = chunks[-1].usage, whole.usage
    assert usage is not None
    assert expected is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (expected.prompt_tokens, expected.completion_tokens)


def test_the_same_seed_gives_the_same_words(client: openai.OpenAI, stack: Stack) -> None:
    texts = {
        client.chat.completions.create(
            model=stack.model, messages=QUESTION, temperature=1.0, top_p=0.95, seed=11, max_tokens=GREEDY_TOKENS
        )
        .choices[0]
        .message.content
        for _ in range(2)
    }
    assert len(texts) == 1


def test_several_choices_come_side_by_side(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(
        model=stack.model, messages=QUESTION, n=3, max_tokens=5, seed=1, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(model=stack.model, messages=QUESTION, temperature=0, stop=["Paris"])
    assert "Paris" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_a_text_is_continued(client: openai.OpenAI, stack: Stack) -> None:
    whole = client.completions.create(
        model=stack.model, prompt="The capital of France is", temperature=0, max_tokens=GREEDY_TOKENS
    )
    stream = client.completions.create(
        model=stack.model, prompt="The capital of France is", temperature=0, max_tokens=GREEDY_TOKENS, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert whole.object == "text_completion"
    assert whole.choices[0].text


def test_a_prompt_of_token_ids_is_continued(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.completions.create(model=stack.model, prompt=[[504, 3575], [260]], temperature=0, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    assert len(answer.choices) == 2


async def test_the_async_client_streams_and_may_leave_early(async_client: openai.AsyncOpenAI, stack: Stack) -> None:
    stream = await async_client.chat.completions.create(
        model=stack.model,
        messages=QUESTION,
        temperature=0,
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    num_chunks = 0
    async with stream:
        async for _ in stream:
            num_chunks += 1
            if num_chunks == 5:
                break
    answer = await async_client.chat.completions.create(
        model=stack.model, messages=QUESTION, temperature=0, max_tokens=GREEDY_TOKENS
    )
    assert answer.choices[0].message.content


def test_a_wrong_key_is_an_authentication_error(stack: Stack) -> None:
    with (
        openai.OpenAI(base_url=stack.base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.models.list()
    assert raised.value.code == "invalid_api_key"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    assert raised.value.code == "model_not_found"


def test_a_bad_value_is_a_bad_request(client: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as raised:
        client.chat.completions.create(model=stack.model, messages=QUESTION, temperature=3)
    assert raised.value.param == "temperature"


def test_what_is_not_offered_is_refused_and_named(client: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="not offered yet") as raised:
        client.chat.completions.create(model=stack.model, messages=QUESTION, response_format={"type": "json_object"})
    assert raised.value.param == "response_format"


def test_a_prompt_that_is_too_long_is_a_bad_request(client: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="Shorten") as raised:
        client.completions.create(model=stack.model, prompt="long " * 100_000)
    assert raised.value.code == "context_length_exceeded"
