"""The probe and the operator's pages, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fakes.authority import Authority

from flash_operator.metrics import Metrics, application
from flash_operator.observation import ProbeResult
from flash_operator.probe import HttpProbe, PatientProbe
from flash_operator.reconcile import Outcome


async def answer(request: web.Request) -> web.Response:
    match request.path:
        case "/ready":
            return web.Response(text="ok")
        case "/timed":
            return web.Response(text="ok", headers={"Server-Timing": "ttft;dur=62.30"})
        case "/moved":
            return web.Response(status=302, headers={"Location": "/ready"})
        case "/slow":
            await asyncio.Event().wait()
    return web.Response(status=503, text="no engine answers" + "!" * 5000)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_get("/{path}", answer)
    async with TestServer(app) as started:
        yield started


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    made = HttpProbe(timeout_seconds=30.0)
    yield made
    await made.aclose()


async def test_only_a_plain_200_is_an_answer(server: TestServer, probe: HttpProbe) -> None:
    assert (await probe(str(server.make_url("/ready")))).ok
    assert not (await probe(str(server.make_url("/moved")))).ok


async def test_a_certificate_for_the_clients_name_is_no_obstacle(probe: HttpProbe, tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/{path}", answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=Authority().serving(tmp_path))
    assert (await probe(str(server.make_url("/ready")))).ok
    await server.close()


async def test_a_refusal_is_told_with_its_text_cut_short(server: TestServer, probe: HttpProbe) -> None:
    result = await probe(str(server.make_url("/broken")))
    assert "answered 503: no engine answers" in result.message
    assert len(result.message) < 500


async def test_silence_ends_at_the_deadline(server: TestServer) -> None:
    hasty = HttpProbe(timeout_seconds=0.3)
    assert "did not answer within 0.3 s" in (await hasty(str(server.make_url("/slow")))).message
    await hasty.aclose()


async def test_a_closed_port_is_a_finding(server: TestServer, probe: HttpProbe) -> None:
    url = str(server.make_url("/ready"))
    await server.close()
    assert "failed" in (await probe(url)).message


async def test_the_kubelet_is_told_what_ails_the_process() -> None:
    ailments: list[str] = []
    async with TestClient(TestServer(application(Metrics(), lambda: tuple(ailments)))) as client:
        assert (await client.get("/livez")).status == 200
        ailments.append("events do not arrive")
        answer = await client.get("/livez")
        assert (answer.status, await answer.text()) == (503, "events do not arrive")


async def test_passes_and_writes_are_counted() -> None:
    metrics = Metrics()
    metrics.finished(Outcome(applied=("Service/a", "Service/b"), status_written=True), 0.1)
    metrics.failed(0.1)
    async with TestClient(TestServer(application(metrics, lambda: ()))) as client:
        text = await (await client.get("/metrics")).text()
    assert 'flashplane_api_writes_total{verb="apply"} 2.0' in text
    assert 'flashplane_api_writes_total{verb="status"} 1.0' in text
    assert 'flashplane_reconcile_passes_total{result="error"} 1.0' in text


async def test_what_requests_lately_took_comes_with_the_answer(server: TestServer, probe: HttpProbe) -> None:
    assert (await probe(str(server.make_url("/timed")))).milliseconds == {"ttft": 62.3}
    assert (await probe(str(server.make_url("/ready")))).milliseconds == {}


class Endpoint:
    """Fails, each time after so long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.asked = 0

    async def __call__(self, url: str) -> ProbeResult:
        self.asked += 1
        self.now += self.seconds
        return ProbeResult(ok=False, message=url)


@pytest.mark.parametrize(("seconds", "asked"), [(10.0, 1), (0.0, 2)])
async def test_what_was_waited_for_in_vain_is_not_waited_for_twice(seconds: float, asked: int) -> None:
    endpoint = Endpoint(seconds)
    probe = PatientProbe(endpoint, lambda: endpoint.now)
    assert not (await probe.look("http://chat")).ok
    assert (await probe("http://chat")).message == "http://chat"
    assert endpoint.asked == asked
    await probe("http://chat")
    assert endpoint.asked == asked + 1


async def test_an_old_answer_is_not_believed() -> None:
    endpoint = Endpoint(10.0)
    probe = PatientProbe(endpoint, lambda: endpoint.now)
    await probe.look("http://chat")
    endpoint.now += 60.0
    await probe("http://chat")
    assert endpoint.asked == 2
