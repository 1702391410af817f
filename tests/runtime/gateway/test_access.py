"""Who is let in, how many at once, and what is told about it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_engine import MODEL, Clock, ScriptedEngine, Stack, a_chat, a_stack

from flash_runtime.gateway.auth import ApiKeys, ApiKeysError, parse_keys
from flash_runtime.gateway.engine import EngineError, EngineFailed
from flash_runtime.gateway.middleware import OPEN_PATHS

CHAT = "/v1/chat/completions"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "api-keys"
    path.write_text("# team a\nsk-one # laptop\n\nsk-t#wo\n")
    return path


def with_keys(path: Path, **options: Any) -> Stack:
    return a_stack(keys=lambda clock: ApiKeys(path, clock=clock), **options)


async def status(stack: Stack, path: str = "/v1/models", key: str | None = None, scheme: str = "Bearer") -> int:
    async with stack.client() as client:
        headers = {} if key is None else {"authorization": f"{scheme} {key}"}
        return (await client.get(path, headers=headers)).status_code


async def test_each_key_of_the_file_is_accepted_and_nothing_else(keys_file: Path) -> None:
    stack = with_keys(keys_file)
    assert await status(stack, key="sk-one") == 200
    assert await status(stack, key="sk-t#wo") == 200
    assert await status(stack, key="sk-one", scheme="bearer") == 200
    for wrong in (None, "", "sk-on", "sk-one1", "# team a", "laptop"):
        assert await status(stack, key=wrong) == 401
    assert await status(stack, key="sk-one", scheme="Basic") == 401


async def test_a_wrong_key_reads_like_openais(keys_file: Path) -> None:
    async with with_keys(keys_file).client() as client:
        response = await client.post(CHAT, json=a_chat(), headers={"authorization": "Bearer sk-wrong"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "sk-wrong" not in error["message"]


async def test_every_route_but_the_probes_and_metrics_asks_for_a_key(keys_file: Path) -> None:
    stack = with_keys(keys_file)
    routes = [route.path for route in stack.app._app._app.router.routes]
    assert len(routes) == 7
    for path in [*routes, "/nowhere", "/v1/models/", "/livez/"]:
        assert (await status(stack, path) == 401) == (path not in OPEN_PATHS), path


async def test_a_changed_keys_file_holds_after_a_second(keys_file: Path) -> None:
    stack = with_keys(keys_file)
    keys_file.write_text("sk-new\n")  # noqa: ASYNC240
    assert await status(stack, key="sk-one") == 200
    stack.clock.now += 1.0
    assert await status(stack, key="sk-one") == 401
    assert await status(stack, key="sk-new") == 200


async def test_a_keys_file_that_vanishes_lets_nobody_in_until_it_is_back(keys_file: Path) -> None:
    stack = with_keys(keys_file)
    keys_file.unlink()  # noqa: ASYNC240
    stack.clock.now += 1.0
    assert await status(stack, key="sk-one") == 401
    keys_file.write_text("sk-one\n")  # noqa: ASYNC240
    stack.clock.now += 1.0
    assert await status(stack, key="sk-one") == 200


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read: No such file"), ("# none\n", "at least one key"), (b"\xff", "UTF-8")]
)
def test_a_keys_file_without_keys_is_refused_at_the_start(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ApiKeysError, match=says):
        ApiKeys(path, clock=Clock())


def test_keys_are_held_as_digests_only(keys_file: Path) -> None:
    assert "sk-one" not in repr(vars(ApiKeys(keys_file, clock=Clock())))
    assert parse_keys("a#b\n #c\n\td # e") == ["a#b", "d"]


async def test_more_requests_than_the_limit_are_told_to_come_back() -> None:
    stack = a_stack(ScriptedEngine(block_after=1), limits={"max_inflight_requests": 1})
    async with stack.client() as client:
        first = asyncio.create_task(client.post(CHAT, json=a_chat()))
        await stack.engine.blocked.wait()
        second = await client.post(CHAT, json=a_chat())
        assert (await client.get("/v1/models")).status_code == 200
        assert "flashplane_gateway_inflight_requests" in (await client.get("/metrics")).text
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"
    assert second.json()["error"]["code"] == "rate_limit_exceeded"


class Caller:
    """Calls the application as a server does, and can hang up."""

    def __init__(self, body: bytes) -> None:
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        self.hung_up = asyncio.Event()
        self.got_body = asyncio.Event()

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.got_body.set()


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 3}, {"n": 3, "stream": True}])
@pytest.mark.parametrize("block_after", [0, 2])
async def test_a_client_that_leaves_frees_the_engine(
    fields: dict[str, Any], block_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stack = a_stack(ScriptedEngine(block_after=block_after))
    caller = Caller(json.dumps(a_chat(**fields)).encode())
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
    call = asyncio.create_task(stack.app(scope, caller.receive, caller.send))
    await stack.engine.blocked.wait()
    caller.hung_up.set()
    await call
    assert stack.engine.num_cancelled == fields.get("n", 1)
    (line,) = [record for record in caplog.records if record.name == "flash_runtime.access"]
    assert line.status == (200 if fields.get("stream") and block_after else 499)
    metrics = stack.gateway.metrics.render().decode()
    assert 'flashplane_gateway_inflight_requests{model="tiny"} 0.0' in metrics


async def test_a_client_that_leaves_while_it_sends_its_body_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stack = a_stack()
    caller = Caller(b"")
    caller._messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
    await stack.app(scope, caller.receive, caller.send)
    (line,) = [record for record in caplog.records if record.name.startswith("flash_runtime")]
    assert (line.status, line.error_code) == (499, "client_gone")


async def test_metrics_count_requests_tokens_and_times() -> None:
    stack = a_stack(ScriptedEngine("hello"))
    async with stack.client() as client:
        await client.post(CHAT, json=a_chat())
        await client.post(CHAT, json={})
        await client.get("/v1/models/secret-name")
        await client.get("/something/made/up")
        page = (await client.get("/metrics")).text
    assert f'flashplane_gateway_requests_total{{code="200",route="{CHAT}"}} 1.0' in page
    assert f'flashplane_gateway_requests_total{{code="400",route="{CHAT}"}} 1.0' in page
    assert 'flashplane_gateway_requests_total{code="404",route="/v1/models/{model}"} 1.0' in page
    assert 'flashplane_gateway_requests_total{code="404",route="other"} 1.0' in page
    assert f'flashplane_gateway_time_to_first_token_seconds_count{{model="{MODEL}"}} 1.0' in page
    assert f'flashplane_gateway_completion_tokens_total{{model="{MODEL}"}}' in page
    assert "secret-name" not in page
    assert "made" not in page


async def test_time_per_output_token_is_the_mean_between_tokens() -> None:
    stack = a_stack(ScriptedEngine("hello world"))
    chunks = stack.engine.generate

    async def slow(*arguments: Any) -> Any:
        async for chunk in chunks(*arguments):
            stack.clock.now += 0.25 if chunk.token_ids else 0.0
            yield chunk

    stack.engine.generate = slow  # type: ignore[method-assign]
    async with stack.client() as client:
        num_tokens = (await client.post(CHAT, json=a_chat())).json()["usage"]["completion_tokens"]
    page = stack.gateway.metrics.render().decode()
    assert num_tokens > 1
    assert f'time_to_first_token_seconds_sum{{model="{MODEL}"}} 0.25' in page
    assert f'time_per_output_token_seconds_sum{{model="{MODEL}"}} 0.25' in page


class Bug(EngineError):
    """Not an EngineError that anybody handles: its message holds words of the prompt."""


async def test_no_words_and_no_keys_reach_the_log(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "xylophone-canary"
    body = a_chat(messages=[{"role": "user", "content": canary}])
    headers = {"authorization": "Bearer sk-one"}
    for failure in (None, EngineFailed(canary), ValueError(canary)):
        stack = with_keys(keys_file, engine=ScriptedEngine(canary, failure=failure))  # type: ignore[arg-type]
        async with stack.client(headers=headers) as client:
            for request in (body, {**body, "stream": True}, {**body, "temperature": canary}, {**body, canary: 1}):
                await client.post(CHAT, json=request)
            await client.get(f"/v1/models/{canary}")
    lines = [record for record in caplog.records if record.name.startswith("flash_runtime")]
    assert len(lines) >= 15
    for record in lines:
        assert canary not in str(vars(record))
        assert "sk-one" not in str(vars(record))


async def test_a_bug_is_answered_with_500_and_found_by_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    stack = a_stack(ScriptedEngine(failure=ValueError("secret")))  # type: ignore[arg-type]
    async with stack.client() as client:
        response = await client.post(CHAT, json=a_chat())
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    request_id = response.headers["x-request-id"]
    assert request_id in response.json()["error"]["message"]
    (line,) = [record for record in caplog.records if record.message == "request failed"]
    assert (line.request_id, line.error) == (request_id, "ValueError")


async def test_the_access_log_has_route_status_time_and_tokens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stack = a_stack(ScriptedEngine("hello"))
    async with stack.client() as client:
        usage = (await client.post(CHAT, json=a_chat())).json()["usage"]
        await client.get("/livez")
    (line,) = [record for record in caplog.records if record.name == "flash_runtime.access"]
    assert (line.route, line.method, line.status, line.ms) == (CHAT, "POST", 200, 0.0)
    assert (line.prompt_tokens, line.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


async def salts(stack: Stack, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    """The cache salt that the engine gets with each call of a key."""
    async with stack.client() as client:
        for key, body in calls:
            answer = await client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
    return [request.cache_salt for _, request in stack.engine.requests]


async def test_each_key_has_a_cache_of_its_own(keys_file: Path) -> None:
    one, again, two = await salts(
        with_keys(keys_file), ("sk-one", a_chat()), ("sk-one", a_chat(n=1)), ("sk-t#wo", a_chat())
    )
    assert one == again
    assert "" not in (one, two)
    assert one != two
    assert "sk-one" not in one


async def test_a_salt_of_the_client_divides_its_own_cache_and_reaches_no_other(keys_file: Path) -> None:
    plain, other = await salts(with_keys(keys_file), ("sk-one", a_chat()), ("sk-t#wo", a_chat()))
    chosen = await salts(
        with_keys(keys_file),
        ("sk-one", a_chat(cache_salt="x")),
        ("sk-one", a_chat(cache_salt="x")),
        ("sk-one", a_chat(cache_salt="y")),
        # The salts of the other tenant, sent as one's own.
        ("sk-t#wo", a_chat(cache_salt="x")),
        ("sk-t#wo", a_chat(cache_salt=plain)),
        ("sk-one", a_chat(cache_salt=other)),
    )
    assert chosen[0] == chosen[1]
    assert len({plain, other, *chosen}) == 2 + 5


async def test_without_keys_all_share_one_cache_but_for_their_own_salts() -> None:
    assert (
        len(set(await salts(a_stack(), ("any", a_chat()), ("other", a_chat()), ("any", a_chat(cache_salt="x"))))) == 2
    )
