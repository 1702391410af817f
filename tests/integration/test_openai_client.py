"""The unmodified `openai` client against the whole local stack: gateway, tritonserver, engine, real weights."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

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


def test_log_probabilities_come_with_a_chat_and_add_up_to_it(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(
        model=stack.model, messages=QUESTION, temperature=0, max_tokens=12, logprobs=True, top_logprobs=5
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    assert answer.usage is not None
    assert len(content) == answer.usage.completion_tokens
    spelled = b"".join(bytes(entry.bytes or ()) for entry in content).decode()
    assert spelled == choice.message.content
    for entry in content:
        assert len(entry.top_logprobs) == 5
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )
        # Greedy: the likeliest token is the one that was taken.
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0 + 1e-6


def test_a_streamed_chat_tells_the_same_log_probabilities(client: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {"temperature": 0.8, "seed": 3, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(model=stack.model, messages=QUESTION, **asked)
    stream = client.chat.completions.create(model=stack.model, messages=QUESTION, stream=True, **asked)
    streamed = [
        entry
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for entry in choice.logprobs.content or ()
    ]
    assert whole.choices[0].logprobs is not None
    assert streamed == whole.choices[0].logprobs.content


def test_a_text_completion_has_log_probabilities_in_its_own_form(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.completions.create(
        model=stack.model, prompt="The capital of France is", temperature=0, max_tokens=8, logprobs=3
    )
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert "".join(logprobs.tokens) == choice.text
    for offset, token in zip(logprobs.text_offset, logprobs.tokens, strict=True):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs or (), logprobs.top_logprobs or (), strict=True
    ):
        assert len(top) == 3
        assert top[token] == logprob == max(top.values())


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_bias_forces_a_token(client: openai.OpenAI, stack: Stack, temperature: float) -> None:
    answer = client.completions.create(
        model=stack.model, prompt="Say it:", temperature=temperature, max_tokens=4, logit_bias={"504": 100}, logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert len(logprobs.tokens) == 4
    assert len(set(logprobs.tokens)) == 1
    # The probabilities are the model's own: nothing forced made the token likely.
    assert min(logprobs.token_logprobs or (0,)) < -1


def test_a_bias_bans_a_token(client: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {"model": stack.model, "prompt": "Say it:", "temperature": 0, "max_tokens": 1}
    forced = client.completions.create(**asked, logit_bias={"504": 100, "3575": 90})
    banned = client.completions.create(**asked, logit_bias={"504": -100, "3575": 90})
    runner_up = client.completions.create(**asked, logit_bias={"3575": 90})
    assert forced.choices[0].text != banned.choices[0].text == runner_up.choices[0].text


def test_penalties_end_a_repetition(client: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {
        "model": stack.model,
        "prompt": "one two one two one two one two one two one two",
        "temperature": 0,
        "max_tokens": 24,
        "extra_body": {"ignore_eos": True},
    }
    plain = client.completions.create(**asked, logprobs=0).choices[0].logprobs
    penalised = client.completions.create(**asked, logprobs=0, frequency_penalty=2, presence_penalty=2)
    with_fewer = penalised.choices[0].logprobs
    assert plain is not None
    assert with_fewer is not None
    assert len(set(with_fewer.tokens or ())) > len(set(plain.tokens or ()))


def test_choices_of_one_seed_differ_and_come_again(client: openai.OpenAI, stack: Stack) -> None:
    def texts(temperature: float) -> list[str | None]:
        answer = client.chat.completions.create(
            model=stack.model,
            messages=QUESTION,
            n=4,
            seed=5,
            max_tokens=16,
            temperature=temperature,
            presence_penalty=0.5,
            extra_body={"min_p": 0.01, "repetition_penalty": 1.1, "top_k": 200},
        )
        return [choice.message.content for choice in answer.choices]

    assert texts(1.5) == texts(1.5)
    assert len(set(texts(1.5))) > 1


def test_a_stop_token_id_ends_the_answer(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.completions.create(
        model=stack.model,
        prompt="Say it:",
        max_tokens=4,
        logit_bias={"504": 100},
        extra_body={"stop_token_ids": [504]},
    )
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"10000000": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 500}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
    ],
)
def test_sampling_out_of_bounds_is_a_bad_request(
    client: openai.OpenAI, stack: Stack, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=param) as raised:
        client.chat.completions.create(model=stack.model, messages=QUESTION, **fields)
    assert raised.value.param == param


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
