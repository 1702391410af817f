"""Everything that can stand between an operator and its API server: load balancers, restarts, expired credentials.

A plain HTTP proxy in front of the real API server. Without faults it only carries; each fault is aimed at some of the
calls and lasts until it is lifted. Watches that are open when a fault begins are cut, so that the next ones meet it.
"""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from flash_operator.cluster.kubernetes import MODEL_FAMILY, WATCHED_KINDS

HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding", "content-encoding"}
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
FIRST_TOKEN = "first-token"
WATCHES = 2 + len(WATCHED_KINDS) + len(MODEL_FAMILY[1])


@dataclass(frozen=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    watch: bool

    @property
    def plural(self) -> str:
        """The resource, without its subresource."""
        parts = self.path.split("/namespaces/", 1)[-1].split("/")
        return parts[1] if "/namespaces/" in self.path and len(parts) > 1 else parts[-1]

    @property
    def named(self) -> bool:
        """One object and no collection."""
        return len(self.path.split("/namespaces/", 1)[-1].split("/")) > 2


Aim = Callable[[Call], bool]
Effect = Callable[["WeatherProxy", web.Request, Call], Awaitable[web.StreamResponse]]


@dataclass
class Fault:
    """What goes wrong for which calls.

    `struck` is set when it has for the first time, `struck_again` when more calls have met it than an operator has
    watches, so that one was given up and replaced; `lifted` when it is over.
    """

    aim: Aim
    effect: Effect
    strikes: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    struck_again: asyncio.Event = field(default_factory=asyncio.Event)
    lifted: asyncio.Event = field(default_factory=asyncio.Event)


class WeatherProxy:
    """An async context manager. `kubeconfig` is what the operator is given."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._upstream = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._token = config["users"][0]["user"]["token"]
        self._config = config
        self.kubeconfig = folder / "weather.kubeconfig"
        self.accepted = FIRST_TOKEN
        self.on_write: Callable[[Call], Awaitable[None]] | None = None
        self.calls: list[Call] = []
        self._fault: Fault | None = None
        self._open: list[tuple[web.Request, Call]] = []

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        forever = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, timeout=forever, trust_env=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.write_kubeconfig(FIRST_TOKEN)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut(lambda call: True)
        await self._runner.cleanup()
        await self.session.close()

    def write_kubeconfig(self, token: str) -> None:
        """As the kubelet renews a token in a pod: the file is replaced as a whole."""
        config = {
            **self._config,
            "clusters": [{"name": "hermetic", "cluster": {"server": self._url}}],
            "users": [{"name": "hermetic", "user": {"token": token}}],
        }
        fresh = self.kubeconfig.with_suffix(".new")
        fresh.write_text(json.dumps(config))
        fresh.rename(self.kubeconfig)

    @contextlib.contextmanager
    def fault(self, aim: Aim, effect: Effect) -> Iterator[Fault]:
        """Bad weather inside the block."""
        fault = self._fault = Fault(aim, effect)
        self.cut(aim)
        try:
            yield fault
        finally:
            self._fault = None
            fault.lifted.set()

    def cut(self, aim: Aim) -> None:
        """Break open watches."""
        for request, call in self._open:
            if aim(call) and request.transport is not None:
                request.transport.abort()

    @property
    def current(self) -> Fault:
        assert self._fault is not None
        return self._fault

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query.get("watch") == "true")
        self.calls.append(call)
        if request.headers.get("Authorization") != f"Bearer {self.accepted}":
            return status(401)(call)
        fault = self._fault
        if fault is not None and fault.aim(call):
            fault.strikes += 1
            fault.struck.set()
            if fault.strikes > WATCHES:
                fault.struck_again.set()
            return await fault.effect(self, request, call)
        return await self.carry(request, call)

    async def carry(
        self, request: web.Request, call: Call, change: Callable[[Any], Any] = lambda body: body
    ) -> web.StreamResponse:
        """Ask the API server. `change` is given the decoded answer, or the lines of a watch."""
        if call.watch:
            return await self._stream(request, call, lambda lines: lines)
        async with self._ask(request) as answer:
            body = await answer.read()
            if call.method in WRITES and self.on_write is not None:
                await self.on_write(call)
            # What is not there at all, as a kind that this cluster does not know, is answered in plain text.
            is_object = "json" in answer.headers.get("Content-Type", "")
            text = json.dumps(change(json.loads(body))).encode() if body and is_object else body
            return web.Response(status=answer.status, body=text, content_type=answer.content_type)

    async def stream(
        self, request: web.Request, call: Call, change: Callable[[list[bytes]], list[bytes]]
    ) -> web.StreamResponse:
        """Carry a watch with every two lines changed together."""
        return await self._stream(request, call, change, together=2)

    async def _stream(
        self, request: web.Request, call: Call, change: Callable[[list[bytes]], list[bytes]], together: int = 1
    ) -> web.StreamResponse:
        self._open.append((request, call))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            async with self._ask(request) as answer:
                response.set_status(answer.status)
                await response.prepare(request)
                held: list[bytes] = []
                async for line in answer.content:
                    held.append(line)
                    if len(held) == together:
                        for each in change(held):
                            await response.write(each)
                        held = []
                for each in change(held):
                    await response.write(each)
        except (aiohttp.ClientError, ConnectionError):
            return response
        finally:
            self._open.remove((request, call))
        return response

    def _ask(self, request: web.Request) -> Any:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers["Authorization"] = f"Bearer {self._token}"
        body = request.content if request.can_read_body else None
        return self.session.request(request.method, self._upstream + request.path_qs, headers=headers, data=body)


def status(code: int, **headers: str) -> Callable[..., web.Response]:
    """The API server's own way of saying no."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": f"weather: {code}", "code": code}

    def answer(call: Call) -> web.Response:
        return web.json_response(body, status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def answers(code: int, **headers: str) -> Effect:
    """Every call is answered by this status."""

    async def effect(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
        return status(code, **headers)(call)

    return effect


def frame(code: int) -> Effect:
    """A watch opens and then carries an ERROR event."""
    error = {"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "code": code, "message": "weather"}}
    return lines(json.dumps(error).encode() + b"\n")


def lines(text: bytes, content_type: str = "application/json") -> Effect:
    """The call succeeds, with this text."""

    async def effect(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
        return web.Response(body=text, headers={"Content-Type": content_type})

    return effect


async def resets(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """The connection is reset."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hangs(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """Nothing comes, and nothing ends, while the weather lasts."""
    await proxy.current.lifted.wait()
    return await resets(proxy, request, call)


async def is_never_answered(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """As `hangs`, for calls that are not made again before they are given up."""
    return await hangs(proxy, request, call)


async def goes_silent(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """A watch opens well and then brings nothing, not even its end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b"")
    return await hangs(proxy, request, call)


async def seems_empty(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """A list has lost all its items."""

    def change(body: Any) -> Any:
        return {**body, "items": []} if "items" in body else body

    return await proxy.carry(request, call, change)


async def is_late(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """Answers come, but slowly."""
    await asyncio.sleep(0.3)
    return await proxy.carry(request, call)


async def stutters(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """Every event comes twice."""
    return await proxy.stream(request, call, lambda held: [line for line in held for _ in range(2)])


async def reorders(proxy: WeatherProxy, request: web.Request, call: Call) -> web.StreamResponse:
    """Each two events change places."""
    return await proxy.stream(request, call, lambda held: held[::-1])
