"""Between the operator and its API server everything goes wrong that can: it converges afterwards, its watches live
again, and it says so while it cannot do its work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import weather_proxy as weather
from builders import a_manifest
from control_plane import ControlPlane
from live_api import MERGE, LiveApi
from object_feed import Feed
from supervised_operator import SupervisedOperator
from weather_proxy import Call, Effect, WeatherProxy

from flash_api import names
from flash_operator.cluster.kubernetes import OWNED_KINDS, PLURALS

REPOSITORY = Path(__file__).parents[2]
CHILDREN = {PLURALS[kind] for _, kind in OWNED_KINDS}
SILENCE = (weather.hangs, weather.goes_silent)
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
TRUNCATED = b'{"type":"MODIFIED","object":{"apiVersion":"flashplane.dev/v1alpha1","kind":"FlashDep'


def own_watch(call: Call) -> bool:
    return call.watch and call.plural == names.PLURAL


def child_watches(call: Call) -> bool:
    return call.watch and call.plural in CHILDREN


def watches(call: Call) -> bool:
    return call.watch


def reads(call: Call) -> bool:
    return call.method == "GET" and not call.watch and call.plural != "leases"


def lists(call: Call) -> bool:
    return reads(call) and not call.named


def writes(call: Call) -> bool:
    return call.method in weather.WRITES and call.plural != "leases"


def everything(call: Call) -> bool:
    return True


WEATHERS: dict[str, tuple[weather.Aim, Effect]] = {
    "ERROR frame 500": (watches, weather.frame(500)),
    "ERROR frame 503": (watches, weather.frame(503)),
    "ERROR frame 504": (watches, weather.frame(504)),
    "ERROR frame 410": (watches, weather.frame(410)),
    "HTTP 410 to watches": (watches, weather.answers(410)),
    "HTTP 500 to watches": (watches, weather.answers(500)),
    "HTTP 403 to watches": (watches, weather.answers(403)),
    "HTTP 429 to watches": (watches, weather.answers(429, Retry_After="1")),
    "a truncated line": (watches, weather.lines(TRUNCATED)),
    "HTML in a watch": (watches, weather.lines(HTML, "text/html")),
    "watches are reset": (watches, weather.resets),
    "watches hang": (watches, weather.hangs),
    "watches go silent": (watches, weather.goes_silent),
    "events come twice": (watches, weather.stutters),
    "events change places": (watches, weather.reorders),
    "HTTP 500 to reads": (reads, weather.answers(500)),
    "HTTP 403 to reads": (reads, weather.answers(403)),
    "HTTP 429 to reads": (reads, weather.answers(429, Retry_After="1")),
    "HTML for reads": (reads, weather.lines(HTML, "text/html")),
    "truncated reads": (reads, weather.lines(b'{"kind": "Flash')),
    "reads are reset": (reads, weather.resets),
    "lists seem empty": (lists, weather.seems_empty),
    "HTTP 503 to writes": (writes, weather.answers(503)),
    "HTTP 429 to writes": (writes, weather.answers(429, Retry_After="1")),
    "writes are reset": (writes, weather.resets),
    "writes hang": (writes, weather.is_never_answered),
    "HTML for everything": (everything, weather.lines(HTML, "text/html")),
    "everything is late": (everything, weather.is_late),
}


AUTOSCALER = ("autoscaling/v2", "HorizontalPodAutoscaler")
AUTOSCALED = {"autoscaling": {"provider": AUTOSCALER[1], "maxReplicas": 5}}


class Scene:
    """One FlashDeployment, the operator behind the proxy, and the user's own way past it."""

    def __init__(self, live: LiveApi, feed: Feed, proxy: WeatherProxy, operator: SupervisedOperator) -> None:
        self.live = live
        self.feed = feed
        self.proxy = proxy
        self.operator = operator
        self.port = 9000

    async def create(self, name: str, *, children_expected: int = 10, **spec: Any) -> None:
        manifest = a_manifest(name, **spec)
        manifest["metadata"]["namespace"] = self.feed.namespace
        path = await self.live.path(names.API_VERSION, names.KIND, self.feed.namespace)
        (await self.live.request("POST", path, manifest)).require()
        await self.feed.until(name, lambda: len(children(self.feed, name)) == children_expected, "its children")

    async def edit(self, name: str) -> int:
        """A new port for the endpoint."""
        self.port += 1
        path = await self.live.path(names.API_VERSION, names.KIND, self.feed.namespace, name)
        change = {"spec": {"endpoint": {"port": self.port}}}
        (await self.live.request("PATCH", path, change, content_type=MERGE)).require()
        return self.port

    async def lose_a_service(self, name: str) -> str:
        """Somebody deletes the Service of the engines. Returns its uid."""
        return await self._lose(("v1", "Service"), name)

    async def lose_the_autoscaler(self, name: str) -> str:
        """Somebody deletes the HPA of the engines. Returns its uid."""
        return await self._lose(AUTOSCALER, name)

    async def _lose(self, kind: tuple[str, str], name: str) -> str:
        path = await self.live.path(*kind, self.feed.namespace, names.engine_name(name))
        uid = (await self.live.request("GET", path)).require()["metadata"]["uid"]
        (await self.live.request("DELETE", path)).require()
        return str(uid)

    async def found_again(self, name: str, lost: str, kind: str = "Service") -> None:
        def is_back() -> bool:
            found = self.feed.of(name).get((kind, names.engine_name(name)))
            return found is not None and found["metadata"]["uid"] != lost

        await self.feed.until(name, is_back, f"another {kind}; log: {self.operator.log.read_text()[-3000:]}")

    async def scale_engines(self, name: str, replicas: int) -> None:
        """As the HPA does."""
        path = await self.live.path("apps/v1", "Deployment", self.feed.namespace, names.engine_name(name))
        body = {"spec": {"replicas": replicas}}
        (await self.live.request("PATCH", f"{path}/scale", body, content_type=MERGE)).require()
        await self.feed.until(name, lambda: self.engines(name) == replicas, f"{replicas} engines")

    def engines(self, name: str) -> int:
        return int(self.feed.of(name)["Deployment", names.engine_name(name)]["spec"]["replicas"])

    async def followed(self, name: str, port: int) -> None:
        def has_port() -> bool:
            service = children(self.feed, name).get(("Service", names.gateway_name(name)))
            return service is not None and service["spec"]["ports"][0]["port"] == port

        await self.feed.until(name, has_port, f"port {port}; log: {self.operator.log.read_text()[-3000:]}")

    async def watches_live(self, name: str) -> None:
        """An edit and the loss of a child are each answered, and the events themselves have arrived."""
        before = [await self.operator.events(kind) for kind in (names.KIND, "Service")]
        await self.followed(name, await self.edit(name))
        await self.found_again(name, await self.lose_a_service(name))

        async def arrived() -> bool:
            now = [await self.operator.events(kind) for kind in (names.KIND, "Service")]
            # A restart counts from zero and delivers everything anew.
            return all(after != earlier for after, earlier in zip(now, before, strict=True))

        await self.operator.until("the events arrive", arrived)


WHOLE_KINDS = {kind for _, kind in OWNED_KINDS} - {"ConfigMap"}


def children(feed: Feed, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Without the configuration of former revisions."""
    found = feed.of(name)
    volumes = [
        volume["configMap"]["name"]
        for child in found.values()
        if child["kind"] == "Deployment"
        for volume in child["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    ]
    return {
        key: child
        for key, child in found.items()
        if key[0] in WHOLE_KINDS or (key[0] == "ConfigMap" and key[1] in volumes)
    }


@contextlib.asynccontextmanager
async def a_scene(
    control_plane: ControlPlane, operator_account: Path, namespace: str, folder: Path, **settings: Any
) -> AsyncIterator[Scene]:
    async with (
        LiveApi(control_plane.kubeconfig) as live,
        Feed(live, namespace) as feed,
        WeatherProxy(operator_account, folder) as proxy,
        SupervisedOperator(proxy.kubeconfig, folder, namespace, **settings) as operator,
    ):
        yield Scene(live, feed, proxy, operator)
    text = operator.log.read_text()
    assert "Traceback" not in text, text[max(0, text.index("Traceback") - 500) :][:4000]


@pytest.fixture
async def scene(
    control_plane: ControlPlane, operator_account: Path, namespace: str, tmp_path: Path
) -> AsyncIterator[Scene]:
    async with a_scene(control_plane, operator_account, namespace, tmp_path) as started:
        yield started


@pytest.mark.timeout(600)
async def test_it_converges_after_any_weather_and_its_watches_live_again(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.create("chat", children_expected=11, engine=AUTOSCALED)
    await scene.scale_engines("chat", 3)
    for name, (aim, effect) in WEATHERS.items():
        with scene.proxy.fault(aim, effect) as fault:
            port = await scene.edit("chat")
            lost, scaler = await scene.lose_a_service("chat"), await scene.lose_the_autoscaler("chat")
            async with asyncio.timeout(60):
                # Silence ends when the operator gives it up, everything else as soon as it was felt.
                await (fault.struck_again if effect in SILENCE else fault.struck).wait()
        try:
            await scene.followed("chat", port)
            await scene.found_again("chat", lost)
            await scene.found_again("chat", scaler, AUTOSCALER[1])
            await scene.watches_live("chat")
            assert scene.engines("chat") == 3, "what the HPA had set"
        except AssertionError as error:
            raise AssertionError(f"after {name}") from error
    assert scene.operator.ends == 0
    with capsys.disabled():
        print(f" [{len(WEATHERS)} kinds of weather]", end="")


@pytest.mark.parametrize("aim", [own_watch, child_watches], ids=["of FlashDeployments", "of children"])
async def test_a_silent_watch_is_noticed_and_replaced_although_its_connection_stands(
    control_plane: ControlPlane, operator_account: Path, namespace: str, tmp_path: Path, aim: weather.Aim
) -> None:
    async with a_scene(control_plane, operator_account, namespace, tmp_path, inactivity_seconds=600.0) as scene:
        await scene.create("chat")
        with scene.proxy.fault(aim, weather.goes_silent):
            await scene.followed("chat", await scene.edit("chat"))

            async def replaced() -> bool:
                return await scene.operator.metric("flashplane_watch_restarts_total") >= 1

            await scene.operator.until("the watches were begun anew", replaced)
        await scene.watches_live("chat")
        assert scene.operator.ends == 0


async def test_what_was_deleted_while_nobody_watched_is_noticed(scene: Scene) -> None:
    await scene.create("chat")
    await scene.create("old")
    with scene.proxy.fault(watches, weather.resets) as outage:
        await outage.struck.wait()
        lost = await scene.lose_a_service("chat")
        path = await scene.live.path(names.API_VERSION, names.KIND, scene.feed.namespace, "old")
        (await scene.live.request("DELETE", path)).require()
    # Where they stood is no longer known: the lists that follow do not speak of what is gone.
    with scene.proxy.fault(watches, weather.frame(410)) as expired:
        await expired.struck.wait()
    await scene.found_again("chat", lost)

    async def forgotten() -> bool:
        return await scene.operator.metric("flashplane_objects") == 1

    await scene.operator.until("the loop of the deleted object has ended", forgotten)
    await scene.feed.until("old", lambda: not scene.feed.of("old"), "nothing is left of it")


async def test_rotated_credentials_are_read_again(scene: Scene) -> None:
    await scene.create("chat")
    for token in ("second-token", "third-token"):
        scene.proxy.accepted = token
        scene.proxy.write_kubeconfig(token)
        scene.proxy.cut(everything)
        await scene.followed("chat", await scene.edit("chat"))
        await scene.watches_live("chat")
    assert scene.operator.ends == 0


async def test_children_that_may_not_be_read_are_told_in_the_status(scene: Scene) -> None:
    await scene.create("chat")

    def child_reads(call: Call) -> bool:
        return (lists(call) or call.watch) and call.plural in CHILDREN

    def ready() -> tuple[str, str]:
        conditions = scene.feed.of("chat")[names.KIND, "chat"].get("status", {}).get("conditions", ())
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "Ready"), ("", ""))

    def engines() -> dict[str, Any]:
        return dict(scene.feed.of("chat")[names.KIND, "chat"].get("status", {}).get("engine", {}))

    await scene.feed.until("chat", lambda: engines().get("updated") == 1, "the status knows the pod")
    before = engines()
    with scene.proxy.fault(child_reads, weather.answers(403)):
        port = await scene.edit("chat")
        await scene.feed.until("chat", lambda: ready() == ("Unknown", "ReadFailed"), "the status says so")

        async def counted() -> bool:
            return await scene.operator.metric("flashplane_objects_failing") == 1

        await scene.operator.until("the metric says so", counted)
        assert engines() == before
    await scene.followed("chat", port)
    await scene.feed.until("chat", lambda: ready()[1] == "EnginesStarting", "the status says what is")


async def test_an_operator_that_may_not_list_its_objects_is_not_well(scene: Scene) -> None:
    def own_lists(call: Call) -> bool:
        return lists(call) and call.plural == names.PLURAL

    async def says_so() -> bool:
        status, text = await scene.operator.page("/livez")
        return status == 503 and "could not be listed" in text

    async def is_well() -> bool:
        return await scene.operator.page("/livez") == (200, "ok")

    with scene.proxy.fault(own_lists, weather.answers(403)):
        await scene.operator.until("/livez says so", says_so)
    await scene.operator.until("/livez is well again", is_well)


async def test_a_process_killed_after_its_writes_leaves_what_an_undisturbed_one_leaves(
    control_plane: ControlPlane, operator_account: Path, namespace: str, tmp_path: Path
) -> None:
    """The real process and SIGKILL, at some of the points that test_crash_points.py visits all."""
    lease = {"lease_seconds": (2.0, 1.5, 0.2)}
    written = 0
    async with a_scene(control_plane, operator_account, namespace, tmp_path, **lease) as scene:

        async def kill_at_some(call: Call) -> None:
            nonlocal written
            written += call.plural != "leases"
            if call.plural != "leases" and written in (1, 4, 6, 8):
                scene.operator.kill()

        scene.proxy.on_write = kill_at_some
        await scene.create("chat")
        await scene.followed("chat", await scene.edit("chat"))

        async def all_kills_done() -> bool:
            return scene.operator.ends == 4

        await scene.operator.until("four kills", all_kills_done)
        await scene.watches_live("chat")
    made = scene.feed.made["chat"]
    # One Service was lost on purpose, and each edit is followed by an edit of the same Service.
    assert (made["Deployment"], made["ConfigMap"], made["Service"], made["ReplicaSet"]) == (2, 2, 3, 2)
