"""Metrics pages, over real sockets and of the real gateway; where gateways are, as EndpointSlices say."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_operator.cluster.endpoint_slices import base_urls
from flash_operator.scrape import PAGE_MAX_BYTES, HttpScrape, reading, scrape_all
from flash_runtime.gateway.metrics import TPOT_BUCKETS, TTFT_BUCKETS, Metrics
from flash_runtime.gateway.tracks import Result, Track


def a_page() -> str:
    metrics = Metrics("chat")
    metrics.inflight.inc(3)
    for _ in range(4):
        metrics.time_to_first_token.observe(0.11)
    metrics.time_per_output_token.observe(0.021)
    for route, code in (
        ("/v1/chat/completions", 200),
        ("/v1/completions", 499),
        ("/v1/completions", 429),
        ("/readyz", 200),
    ):
        metrics.count_request(route=route, code=code)
    return metrics.render().decode()


def test_the_page_of_the_real_gateway_is_understood() -> None:
    found = reading(a_page())
    assert found is not None
    assert (found.inflight, found.finished) == (3, 2)
    assert found.ttft.bounds[:-1] == TTFT_BUCKETS
    assert found.tpot.bounds[:-1] == TPOT_BUCKETS
    at = dict(zip(found.ttft.bounds, found.ttft.counts, strict=True))
    assert (at[0.1], at[0.125], found.ttft.total, found.tpot.total) == (0, 4, 4, 1)


def test_what_the_real_gateway_says_of_both_revisions_is_understood() -> None:
    metrics = Metrics("chat")
    for track, number in ((Track.STABLE, 5), (Track.CANARY, 2)):
        for _ in range(number):
            metrics.observe_first_token(0.11, track=track)
            metrics.observe_output_token(0.021, track=track)
            metrics.count_stream(track, Result.ANSWERED)
    metrics.count_stream(Track.CANARY, Result.FAILED)
    metrics.count_stream(Track.CANARY, Result.REFUSED)
    found = reading(metrics.render().decode())
    assert found is not None
    assert (found.stable.answered, found.stable.failed) == (5, 0)
    assert (found.canary.answered, found.canary.failed) == (2, 2)
    assert [side.ttft.total for side in (found.stable, found.canary)] == [5, 2]
    assert [side.tpot.total for side in (found.stable, found.canary)] == [5, 2]
    assert found.ttft.total == 7, "autoscaling sees all of them, once"


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html>sorry</html>",
        "up 1\n",
        "flashplane_gateway_inflight_requests NaN\n",
        "flashplane_gateway_inflight_requests three\n",
        a_page().replace('le="0.1"', 'lx="0.1"'),
    ],
)
def test_another_page_is_no_reading(page: str) -> None:
    assert reading(page) is None


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def answer(request: web.Request) -> web.Response:
        match request.path:
            case "/gateway/metrics":
                return web.Response(text=a_page())
            case "/slow/metrics":
                await asyncio.Event().wait()
            case "/huge/metrics":
                return web.Response(text=a_page() + "#" * PAGE_MAX_BYTES)
            case "/moved/metrics":
                return web.Response(status=302, headers={"Location": "/gateway/metrics"})
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with TestServer(app) as started:
        yield started


async def test_only_gateways_that_answer_have_a_reading(server: TestServer) -> None:
    scrape = HttpScrape(timeout_seconds=2.0)
    urls = tuple(str(server.make_url(f"/{name}/metrics")) for name in ("gateway", "slow", "huge", "moved", "broken"))
    found = await scrape_all(scrape, (*urls, "http://127.0.0.1:9/metrics"))
    await scrape.aclose()
    assert list(found) == [urls[0]]
    assert found[urls[0]].inflight == 3


def an_endpoint(address: str, uid: str | None = None, **conditions: bool) -> dict[str, Any]:
    target = {} if uid is None else {"targetRef": {"kind": "Pod", "uid": uid}}
    return {"addresses": [address], "conditions": conditions, **target}


def a_slice(*endpoints: dict[str, Any], port: int | None = 8080) -> dict[str, Any]:
    return {"endpoints": list(endpoints), "ports": [{"name": "http", "port": port}]}


def test_each_pod_that_serves_is_asked_once() -> None:
    first = a_slice(
        an_endpoint("10.0.0.2", "b", ready=True, serving=True),
        an_endpoint("10.0.0.1", "a", ready=False, serving=True, terminating=True),
        an_endpoint("10.0.0.3", "c", ready=False, serving=False),
    )
    second = a_slice(an_endpoint("10.0.0.2", "b", ready=True), an_endpoint("10.0.0.4"))
    assert base_urls([first, second]) == ("http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.4:8080")


def test_a_pod_with_two_families_is_one_pod_and_brackets_are_set() -> None:
    both = [a_slice(an_endpoint("fd00::1", "a")), a_slice(an_endpoint("10.0.0.1", "a"))]
    assert base_urls(both) == base_urls(both[::-1]) == ("http://10.0.0.1:8080",)
    assert base_urls(both[:1]) == ("http://[fd00::1]:8080",)


@pytest.mark.parametrize("slices", [[], [{}], [a_slice()], [a_slice(an_endpoint("10.0.0.1"), port=None)]])
def test_a_slice_without_addresses_or_ports_names_nobody(slices: list[dict[str, Any]]) -> None:
    assert base_urls(slices) == ()


def test_pods_that_speak_tls_are_asked_by_it() -> None:
    ports = [{"name": "https", "port": 8080}]
    each = {"ports": ports, "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"serving": True}}]}
    assert base_urls([each]) == ("https://10.0.0.1:8080",)
