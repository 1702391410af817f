"""The operator's loops inside the test's process, on the real API, with a world around them that has no accidents.

One `Lives` is the operator of one FlashDeployment. It can be killed after any of its API writes; the next life starts
with nothing but what the cluster holds, as a new process does.
"""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from fakes.kubelet import FakeKubelet
from live_api import MERGE, LiveApi
from object_feed import DEPLOYMENTS, Family, Feed

from flash_api import names
from flash_operator.cluster.kubernetes import KubernetesApi, KubernetesCluster
from flash_operator.cluster.protocol import ClusterError, Key
from flash_operator.observation import ProbeResult
from flash_operator.plan.autoscale_load import GatewayReading, Histogram, TrackReading
from flash_operator.queue import Loops, QueueSettings
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler
from flash_operator.trial import Witness

WRITES = frozenset({"patch", "post", "put", "delete"})
QUEUE = QueueSettings(settle_seconds=0.0, report_seconds=0.0, backoff_seconds=0.05, backoff_max_seconds=0.5)


class Killed(BaseException):
    """The process is gone. Nothing in the operator may catch it."""


class MortalApi:
    """The requests of one life: counted, and the last ones of it after the write that `kill_after` names."""

    def __init__(self, api: KubernetesApi, written: Callable[[], bool]) -> None:
        self._api = api
        self._written = written
        self._dead = False

    async def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        if self._dead:
            raise Killed
        try:
            answer = await self._api.request(method, path, body, **params)
        except ClusterError:
            if method in WRITES:
                self._write()
            raise
        if method in WRITES:
            self._write()
        return answer

    def _write(self) -> None:
        if self._written():
            self._dead = True
            raise Killed


async def answers(url: str) -> ProbeResult:
    """A probe of an endpoint that answers."""
    return ProbeResult(ok=True, message="")


class Traffic:
    """Gateways on paper, one for all: at each look so many more requests were answered, or failed, by either side."""

    def __init__(self) -> None:
        self.answered = {"stable": 90, "canary": 60}
        self.failed = {"stable": 0, "canary": 0}
        self._reading = GatewayReading()

    async def scrape(self, url: str) -> GatewayReading | None:
        del url
        sides = {"stable": self._reading.stable, "canary": self._reading.canary}
        grown = {
            name: side.plus(TrackReading(number := self.answered[name], self.failed[name], a_few(number)))
            for name, side in sides.items()
        }
        self._reading = GatewayReading(**grown)
        return self._reading


def a_few(number: int) -> Histogram:
    return Histogram((0.1, 0.2, math.inf), (number, number, number))


class PaperGateways(KubernetesCluster):
    """The real cluster, in which no gateway has an address."""

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        return ("http://gateway.on.paper",)


class Lives:
    """The operator of one FlashDeployment, one life after the other. `kill_after` is asked with the number of each
    write, from 1. An async context manager; `world` delivers its events."""

    def __init__(self, world: "World", name: str, kill_after: Callable[[int], bool] = lambda write: False) -> None:
        self.key = Key(world.feed.namespace, name)
        self.writes = 0
        self.deaths = 0
        self.passes = 0
        self.last: Outcome | None = None
        self.traffic = Traffic()
        self._skipped = timedelta()
        self._begun = 0
        self._oldest = 0
        self._world = world
        self._kill_after = kill_after
        self._buried: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._begin()

    async def __aenter__(self) -> Self:
        self._world.operators[self.key.name] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        del self._world.operators[self.key.name]
        await self._loops.aclose()
        await asyncio.gather(*self._buried)

    def wake(self, generation: int | None = None) -> None:
        self._loops.wake(self.key, generation)

    def forget(self) -> None:
        """The user has acted: only passes that begin from now on count."""
        self.last = None
        self._oldest = self._begun + 1

    async def until(self, fact: Callable[[Outcome], bool], what: str) -> Outcome:
        """Wait for a pass with such an outcome. A mistake of ours (any exception but ClusterError) is raised here."""

        def holds() -> bool:
            if self._failure is not None:
                raise self._failure
            return self.last is not None and fact(self.last)

        await self._world.feed.until(self.key.name, holds, f"{what}; last outcome: {self.last}")
        assert self.last is not None
        return self.last

    async def reconcile(
        self, cluster: KubernetesCluster, key: Key, settings: ReconcileSettings, witness: Witness, scaler: Scaler
    ) -> Outcome:
        """One pass."""
        return await reconcile(
            cluster, key, probe=answers, now=self._now, settings=settings, witness=witness, scaler=scaler
        )

    def _begin(self) -> None:
        api: Any = MortalApi(self._world.api, self._written)
        cluster = PaperGateways(api)
        settings = self._world.settings
        witness, scaler = Witness(self.traffic.scrape), Scaler(self.traffic.scrape)

        async def step(key: Key) -> Outcome:
            self._begun += 1
            number = self._begun
            self._skipped += self._world.skip
            try:
                outcome = await self.reconcile(cluster, key, settings, witness, scaler)
                self.last = outcome if number >= self._oldest else None
                return outcome
            except Killed:
                self.deaths += 1
                self._reincarnate()
                # A dead process does nothing more; the task is cancelled with the loops of its life.
                await asyncio.Event().wait()
                raise AssertionError("it was woken") from None
            except ClusterError:
                raise
            except Exception as mistake:
                self._failure = mistake
                raise
            finally:
                self.passes += 1
                self._world.feed.tell(key.name)

        self._loops = Loops(step, clock=asyncio.get_running_loop().time, settings=QUEUE)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._skipped

    def _reincarnate(self) -> None:
        self._buried.add(asyncio.create_task(self._loops.aclose()))
        self._begin()
        self.wake()

    def _written(self) -> bool:
        self.writes += 1
        return self._kill_after(self.writes)


class World:
    """One namespace with its feed, its kubelet and the operators in it. An async context manager."""

    def __init__(
        self, live: LiveApi, kubeconfig: Path, namespace: str, family: Family = DEPLOYMENTS, kubelet: Any = FakeKubelet
    ) -> None:
        self.live = live
        self.family = family
        self.feed = Feed(live, namespace, family)
        self.kubelet = kubelet(self._write_pod_status)
        self.operators: dict[str, Lives] = {}
        self.settings = ReconcileSettings()
        self.skip = timedelta()
        """How much later each pass is than the clock says, on top of those before it."""
        self._kubeconfig = kubeconfig

    async def __aenter__(self) -> Self:
        self.api = await KubernetesApi.connect(str(self._kubeconfig))
        self.feed.listen(self._heard)
        await self.feed.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.feed.__aexit__(*error)
        await self.kubelet.aclose()
        await self.api.aclose()

    async def path(self, name: str | None = None) -> str:
        return await self.live.path(names.API_VERSION, self.family.kind, self.feed.namespace, name)

    async def snapshot(self, name: str) -> list[dict[str, Any]]:
        """The FlashDeployment and everything that came of it but pods, as stored now: the feed may lag behind."""
        own = await self.live.request("GET", await self.path(name))
        found = [own.body] if own.ok else []
        for api_version, kind in (*self.family.owned, *self.family.born):
            if kind == "Pod":
                continue
            path = await self.live.path(api_version, kind, self.feed.namespace)
            listed = await self.live.request("GET", path, labelSelector=f"{self.family.label}={name}")
            found += [{"apiVersion": api_version, "kind": kind, **item} for item in listed.require()["items"]]
        return found

    def _heard(self, event: str, found: dict[str, Any]) -> None:
        if found["kind"] == "Pod":
            self.kubelet.observe(event, found)
            return
        own = found["kind"] == self.family.kind
        name = found["metadata"]["name"] if own else found["metadata"]["labels"][self.family.label]
        if name in self.operators and found["kind"] != "ReplicaSet":
            self.operators[name].wake(found["metadata"]["generation"] if own else None)

    async def _write_pod_status(self, name: str, status: dict[str, Any]) -> None:
        path = await self.live.path("v1", "Pod", self.feed.namespace, name)
        answer = await self.live.request("PATCH", f"{path}/status", {"status": status}, content_type=MERGE)
        assert answer.ok or answer.status == 404, answer
