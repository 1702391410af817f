"""The engine inside a real tritonserver: streams, errors, and every way of ending."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from engine_streams import Stream, StreamFailed, generate
from fakes.paged_model import PagedModel
from grpc.aio import AioRpcError
from tritonserver_plugin import RunningEngine, children, eventually

from flash_runtime.backend.canary import NotAlive, probe
from flash_runtime.backend.load import Loaded, load
from flash_runtime.backend.serve import read_config
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.wire import Failure, FinishReason, GenerateRequest, StreamEvent

StartEngine = Callable[..., RunningEngine]
PROMPT = [5, 6, 7, 8, 9, 10]
FOREVER = 90_000


async def test_a_stream_brings_tokens_as_they_are_made_and_ends_with_a_reason(engine: RunningEngine) -> None:
    stream = await generate(engine, PROMPT, max_tokens=800)
    assert stream.tokens == PagedModel().expected(PROMPT, 800)
    assert stream.num_responses > 1
    assert stream.event.finish_reason == FinishReason.LENGTH


async def test_concurrent_streams_get_what_each_gets_alone(engine: RunningEngine) -> None:
    prompts = [[number, *PROMPT] for number in range(24)]
    streams = await asyncio.gather(*(generate(engine, prompt, max_tokens=20) for prompt in prompts))
    assert [stream.tokens for stream in streams] == [PagedModel().expected(prompt, 20) for prompt in prompts]


async def test_a_repeated_prompt_says_how_much_of_it_was_cached(engine: RunningEngine) -> None:
    prompt = list(range(30, 50))
    await generate(engine, prompt)
    assert (await generate(engine, prompt)).event.cached_tokens == 16


async def test_a_prompt_cached_for_one_tenant_is_not_found_by_another(engine: RunningEngine) -> None:
    prompt = list(range(50, 70))
    cached = [(await generate(engine, prompt, cache_salt=salt)).event.cached_tokens for salt in ("a", "b", "a", "b")]
    assert cached == [0, 0, 16, 16]


async def test_a_cancelled_stream_frees_its_memory(engine: RunningEngine) -> None:
    async with Stream(engine, PROMPT, max_tokens=FOREVER) as stream:
        await stream.receive()
        await asyncio.to_thread(eventually, lambda: engine.metrics()["flash_engine_requests_running"] == 1)
        stream.cancel()
    await asyncio.to_thread(eventually, lambda: engine.metrics()["flash_engine_requests_running"] == 0)
    assert engine.metrics()["flash_engine_kv_blocks_used"] == 0


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([5, 97], "input_ids (97) must hold token ids from 0 to 96"),
        ([1] * 100_000, "input_ids (100000 tokens) must be shorter than the context window"),
    ],
)
async def test_a_request_that_can_never_run_is_an_invalid_argument(
    engine: RunningEngine, prompt: list[int], said: str
) -> None:
    with pytest.raises(StreamFailed) as refusal:
        await generate(engine, prompt)
    kind, message = Failure.read(str(refusal.value))
    assert kind is Failure.INVALID
    assert said in message


async def test_a_hundred_refusals_at_once_do_the_server_no_harm(engine: RunningEngine) -> None:
    refused = await asyncio.gather(*(generate(engine, [97]) for _ in range(100)), return_exceptions=True)
    assert {type(outcome) for outcome in refused} == {StreamFailed}
    assert (await generate(engine, PROMPT)).tokens == PagedModel().expected(PROMPT, 8)


def test_a_malformed_request_names_its_field(engine: RunningEngine) -> None:
    body = json.dumps({"input_ids": [1], "request": '{"max_tokens": 0}'}).encode()
    url = f"http://{engine.listen.address}:{engine.listen.http_port}/v2/models/engine/generate_stream"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10)
    with refusal.value as answer:
        assert answer.code == 400
        assert "request: max_tokens (0): Input should be greater than or equal to 1" in answer.read().decode()


def test_nobody_administers_the_server_through_its_api(engine: RunningEngine) -> None:
    url = f"http://{engine.listen.address}:{engine.listen.http_port}/v2/repository/index"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=10)
    assert refusal.value.code == 403
    refusal.value.close()


async def test_a_full_engine_turns_the_next_request_away_at_once(start_engine: StartEngine) -> None:
    engine = start_engine(max_concurrent_requests=1, max_queued_requests=0)
    async with Stream(engine, PROMPT, max_tokens=FOREVER) as stream:
        await stream.receive()
        turned_away = await generate(engine, PROMPT)
        assert (turned_away.tokens, turned_away.event.finish_reason) == ([], FinishReason.OVERLOADED)
        assert run_canary(engine).returncode == 0, "a full engine is alive"
    engine.kill()


async def test_a_busy_engine_shows_life_to_who_waits_and_to_the_canary(start_engine: StartEngine) -> None:
    engine = start_engine(max_concurrent_requests=1)
    async with Stream(engine, PROMPT, max_tokens=FOREVER) as first:
        await first.receive()
        async with Stream(engine, PROMPT) as second:
            await second.receive()
            assert (second.tokens, second.event) == ([], StreamEvent())
            assert run_canary(engine).returncode == 0
    engine.kill()


def test_the_canary_passes_on_a_living_engine(engine: RunningEngine) -> None:
    canary = run_canary(engine)
    assert (canary.returncode, canary.stderr) == (0, "")


def test_the_canary_fails_in_time_when_the_model_process_hangs(engine: RunningEngine) -> None:
    stub = engine.model_pid()
    os.kill(stub, signal.SIGSTOP)
    try:
        with pytest.raises(NotAlive, match=r"no token within 0\.5 s"):
            probe(engine.listen.address, engine.listen.http_port, 0.5)
        url = f"http://{engine.listen.address}:{engine.listen.http_port}/v2/health/live"
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.status == 200, "the server's own word is not to be trusted, which is why there is a canary"
    finally:
        os.kill(stub, signal.SIGCONT)
    probe(engine.listen.address, engine.listen.http_port, 10)


async def test_sigterm_lets_a_running_stream_finish(start_engine: StartEngine) -> None:
    engine = start_engine()
    async with Stream(engine, PROMPT, max_tokens=1500) as stream:
        await stream.receive()
        engine.process.send_signal(signal.SIGTERM)
        await stream.drain()
        assert len(stream.tokens) == 1500
    assert await asyncio.to_thread(engine.stop) == 0
    assert_nothing_is_left_of(engine)


async def test_streams_cancelled_as_they_end_do_not_hold_up_the_exit(start_engine: StartEngine) -> None:
    engine = start_engine(shutdown_seconds=60)
    for number in range(50):
        async with Stream(engine, [number], max_tokens=3) as stream:
            while await stream.receive():
                pass
    assert await asyncio.to_thread(engine.stop) == 0, "0 only if nobody waited for the end of the shutdown time"
    assert_nothing_is_left_of(engine)


async def test_a_dead_model_process_ends_the_server_and_its_streams(start_engine: StartEngine) -> None:
    engine = start_engine()
    async with Stream(engine, PROMPT, max_tokens=FOREVER) as stream:
        await stream.receive()
        os.kill(engine.model_pid(), signal.SIGKILL)
        with pytest.raises(AioRpcError):
            await stream.drain()
    assert await asyncio.to_thread(engine.process.wait, 10) == 1
    assert "the process that runs the model died" in engine.log.read_text()
    assert "Connection refused" in run_canary(engine).stderr
    assert_nothing_is_left_of(engine)


async def test_an_engine_that_fails_tells_every_stream_and_ends(start_engine: StartEngine) -> None:
    engine = start_engine(model="fatal_token=96, max_context_tokens=100_000, num_blocks=25_000, vocab_size=97")
    async with Stream(engine, PROMPT, max_tokens=FOREVER) as bystander:
        await bystander.receive()
        with pytest.raises((StreamFailed, AioRpcError)):
            await generate(engine, [1, 96])
        with pytest.raises((StreamFailed, AioRpcError)):
            await bystander.drain()
    assert await asyncio.to_thread(engine.process.wait, 10) == 1
    assert engine.log.read_text().splitlines()[-1] == ("the engine failed: MemoryError: a token that no model survives")
    assert_nothing_is_left_of(engine)


def test_a_killed_supervisor_takes_the_server_and_the_model_process_with_it(start_engine: StartEngine) -> None:
    engine = start_engine()
    (server,) = children(engine.process.pid)
    stub = engine.model_pid()
    engine.process.kill()
    engine.process.wait(10)
    eventually(lambda: not is_running(server) and not is_running(stub))


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture of experts, packed by `flash-pull`."""
    pytest.importorskip("flash_runtime.kernels._native", reason="the native kernels are not built")
    checkpoint = tiny_checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "qwen3_moe")
    folder = tmp_path_factory.mktemp("packed")
    command = ["-m", "flash_runtime.model.pull", "--source", f"file://{checkpoint}", "--variant", "Lite"]
    environ = {**os.environ, "FLASHPLANE_CACHE": str(tmp_path_factory.mktemp("cache"))}
    subprocess.run([sys.executable, *command, "--to", str(folder)], env=environ, check=True, capture_output=True)
    return folder


async def test_a_packed_model_answers_as_its_engine_does_without_a_server(
    packed_folder: Path, start_packed_engine: StartEngine
) -> None:
    engine = start_packed_engine(packed_folder, kv_cache_bytes=4 * 1024**2, threads=1)
    engine.wait_until_ready()
    prompt = list(tiny_checkpoints.PROMPT)
    sampled = {"temperature": 1.0, "frequency_penalty": 0.5, "logit_bias": {7: 2.0}, "logprobs": 3, "seed": 5}
    fields: list[dict[str, Any]] = [{}, sampled, {}, {**sampled, "min_p": 0.1, "repetition_penalty": 1.2}]
    streams = await asyncio.gather(
        *(generate(engine, prompt[number:], max_tokens=16, **asked) for number, asked in enumerate(fields))
    )
    loaded = load(read_config(packed_folder / "engine.json"))
    for number, stream in enumerate(streams):
        alone = Engine(loaded.provider, limits=EngineLimits(), eos_token_ids=loaded.eos_token_ids)
        alone.add("only", prompt[number:], GenerateRequest(max_tokens=16, **fields[number]))
        outputs = []
        while alone.has_work:
            outputs += alone.step()
        assert stream.tokens == [token for output in outputs for token in output.token_ids]
        assert stream.logprobs == [one for output in outputs for one in output.logprobs]
        assert len(stream.logprobs) == (len(stream.tokens) if fields[number] else 0)
    assert_expert_metrics_agree(engine, loaded)
    assert await asyncio.to_thread(engine.stop) == 0


def test_a_corrupt_packed_model_is_the_last_line_of_the_log(
    packed_folder: Path, start_packed_engine: StartEngine, tmp_path: Path
) -> None:
    content = (packed_folder / "model.flash").read_bytes()
    (tmp_path / "model.flash").write_bytes(content[: len(content) // 2])
    engine = start_packed_engine(tmp_path)
    assert engine.process.wait(60) != 0
    last = engine.log.read_text().splitlines()[-1]
    assert last.startswith("flash-engine: cannot load the model: ")
    assert "model.flash" in last


def assert_expert_metrics_agree(engine: RunningEngine, loaded: Loaded) -> None:
    """The server ran the same tokens as this process, and a canary or none; so experts were used alike."""
    load = loaded.expert_load()
    assert load is not None

    def tokens_by_layer() -> list[float]:
        series = engine.series("flash_engine_expert_tokens_total")
        return [sum(n for labels, n in series if f'layer="{layer}"' in labels) for layer in range(len(load))]

    eventually(lambda: bool(min(tokens_by_layer()) > 0))
    assert len(engine.series("flash_engine_expert_tokens_total")) == load.size
    assert [value >= 1.0 for _, value in engine.series("flash_engine_expert_skew")] == [True] * len(load)
    assert len(set(tokens_by_layer())) == 1, "every layer routes every token"


def run_canary(engine: RunningEngine) -> subprocess.CompletedProcess[str]:
    command = ["-m", "flash_runtime.backend.canary", "--http-port", str(engine.listen.http_port), "--deadline", "10"]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=30)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_nothing_is_left_of(engine: RunningEngine) -> None:
    """No process of its group, no shared memory under its name."""
    with pytest.raises(ProcessLookupError):
        os.killpg(engine.process.pid, 0)
    assert engine.leftovers() == []
