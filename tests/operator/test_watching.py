"""Watches of one kind: what they tell, and what becomes of those that fail."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from operator_objects import a_service

from flash_operator.cluster.protocol import ClusterError, Key
from flash_operator.cluster.watching import Listener, WatchedKind, WatchedObjects, WatchTimes

A = Key("default", "a")
TIMES = WatchTimes(retry_seconds=0.0, retry_max_seconds=0.0, patience_seconds=30.0, relist_seconds=1000.0)
END = b""


class Server:
    """Lists what it holds; a watch brings the lines that a test puts into `lines`. END closes it."""

    def __init__(self, *services: dict[str, Any]) -> None:
        self.items = list(services)
        self.version = 10
        self.lists = 0
        self.watches: list[str] = []
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.error: ClusterError | None = None

    async def request(self, method: str, path: str, **params: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.lists += 1
        start = int(params.get("_continue", 0))
        meta = {"resourceVersion": str(self.version)}
        if start + 1 < len(self.items):
            meta["continue"] = str(start + 1)
        return {"kind": "ServiceList", "metadata": meta, "items": self.items[start : start + 1]}

    @contextlib.asynccontextmanager
    async def watch(self, path: str, *, resource_version: str, **params: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        if self.error is not None:
            raise self.error
        self.watches.append(resource_version)
        yield self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        while line := await self.lines.get():
            yield line

    def tell(self, kind: str, found: dict[str, Any]) -> None:
        self.lines.put_nowait(json.dumps({"type": kind, "object": found}).encode())


class Scene:
    """A watched kind that runs, with what its listener heard."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.now = 0.0
        api: Any = server
        self.kind = WatchedKind(api, "/services", "v1", "Service", times=TIMES, clock=lambda: self.now)
        self.objects = WatchedObjects([(None, self.kind)])
        self.changed: list[Key] = []
        self.restarts: list[str] = []
        self.heard = 0

    def _hear(self, kind: str) -> None:
        self.heard += 1

    async def __aenter__(self) -> "Scene":
        listener = Listener(self.changed.append, self._hear, lambda kind, cause: self.restarts.append(cause))
        self._task = asyncio.create_task(self.objects.run(listener))
        await self.objects.begun()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, fact: Any) -> None:
        async with asyncio.timeout(5):
            while not fact():  # noqa: ASYNC110 (the turns of this loop are what is waited for)
                await asyncio.sleep(0)

    def names(self) -> list[str] | None:
        found = self.objects.of("Service", A)
        return None if found is None else [manifest["metadata"]["name"] for manifest in found]


async def test_the_pages_of_the_first_list_are_held_and_wake_nobody() -> None:
    async with Scene(Server(a_service("a-engine"), a_service("a-gateway"))) as scene:
        assert scene.names() == ["a-engine", "a-gateway"]
        assert scene.objects.live
        assert scene.server.lists == 2
        assert scene.changed == []


async def test_events_change_what_is_held_and_wake_the_owner() -> None:
    async with Scene(Server(a_service("a-engine"))) as scene:
        scene.server.tell("ADDED", a_service("a-gateway", 11))
        scene.server.tell("DELETED", a_service("a-engine", 12))
        await scene.until(lambda: scene.heard == 2)
        assert scene.names() == ["a-gateway"]
        assert scene.changed == [A, A]


async def test_what_we_wrote_is_held_at_once_and_its_event_wakes_nobody() -> None:
    async with Scene(Server()) as scene:
        scene.objects.wrote(a_service("a-engine", 11))
        assert scene.names() == ["a-engine"]
        scene.server.tell("ADDED", a_service("a-engine", 11))
        await scene.until(lambda: scene.heard == 1)
        assert scene.changed == []


async def test_a_watch_that_ends_goes_on_from_where_it_was() -> None:
    async with Scene(Server()) as scene:
        scene.server.tell("BOOKMARK", {"metadata": {"resourceVersion": "40"}})
        scene.server.lines.put_nowait(END)
        await scene.until(lambda: scene.server.watches == ["10", "40"])
        assert scene.server.lists == 1
        assert scene.heard == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"MODIFIED","object":{"api',
        b"<html>502 Bad Gateway</html>",
        b"[]",
        b'{"type":"ADDED","object":{}}',
        json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}).encode(),
    ],
)
async def test_after_nonsense_and_errors_everything_is_listed_anew(line: bytes) -> None:
    async with Scene(Server(a_service("a-engine"), a_service("a-old"))) as scene:
        scene.server.items, scene.server.version = [a_service("a-engine")], 50
        scene.server.lines.put_nowait(line)
        await scene.until(lambda: scene.names() == ["a-engine"])
        assert scene.changed == [A]
        assert len(scene.restarts) == 1


async def test_while_a_watch_fails_its_kind_is_not_known() -> None:
    async with Scene(Server(a_service("a-engine"))) as scene:
        scene.server.error = ClusterError("no")
        scene.server.lines.put_nowait(END)
        await scene.until(lambda: scene.restarts)
        assert scene.names() is None
        assert not scene.objects.live
        scene.server.error = None
        await scene.until(lambda: scene.names() == ["a-engine"])
        assert scene.server.lists == 1


async def test_a_first_list_that_fails_is_tried_again_and_wakes_those_whom_it_finds() -> None:
    server = Server(a_service("a-engine"))
    server.error = ClusterError("no")
    async with Scene(server) as scene:
        assert scene.names() is None
        server.error = None
        await scene.until(lambda: scene.names() == ["a-engine"])
        assert scene.changed == [A]


async def test_a_watch_that_does_not_bring_what_we_wrote_is_dead_and_is_begun_anew() -> None:
    async with Scene(Server()) as scene:
        scene.now = 100.0
        scene.objects.wrote(a_service("a-engine", 11))
        scene.now = 130.0
        assert scene.objects.stale() == frozenset()
        scene.now = 131.0
        assert scene.objects.stale() == {"Service"}
        scene.server.items, scene.server.version = [a_service("a-engine", 11)], 12
        scene.objects.renew_stale()
        await scene.until(lambda: scene.server.watches == ["10", "12"])
        assert scene.objects.stale() == frozenset()
        assert len(scene.restarts) == 1


async def test_a_watch_that_brings_anything_is_alive() -> None:
    async with Scene(Server()) as scene:
        scene.objects.wrote(a_service("a-engine", 11))
        scene.now = 29.0
        scene.server.tell("ADDED", a_service("a-gateway", 10))
        await scene.until(lambda: scene.heard == 1)
        scene.now = 58.0
        assert scene.objects.stale() == frozenset()
        scene.now = 60.0
        assert scene.objects.stale() == {"Service"}


async def test_everything_is_listed_anew_after_long_enough() -> None:
    async with Scene(Server(a_service("a-engine"))) as scene:
        scene.now = 1001.0
        scene.server.items = []
        scene.server.lines.put_nowait(END)
        await scene.until(lambda: scene.names() == [])
        assert scene.server.lists == 2


async def test_of_several_namespaces_each_has_its_own() -> None:
    api: Any = Server()
    kinds = [WatchedKind(api, f"/{n}", "v1", "Service", times=TIMES, clock=lambda: 0.0) for n in "ab"]
    objects = WatchedObjects([("a", kinds[0]), ("b", kinds[1])])
    kinds[0].live = True
    assert objects.of("Service", Key("a", "x")) == ()
    assert objects.of("Service", Key("b", "x")) is None
    assert objects.of("Deployment", Key("a", "x")) is None
