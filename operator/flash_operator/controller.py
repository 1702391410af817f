"""The running operator: events in, passes out, with its pages, its watchdog and its Lease around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol

from aiohttp import web

from flash_api import names
from flash_operator.cluster.protocol import Cluster, ClusterError, Key
from flash_operator.cluster.watching import Listener, WatchedObjects
from flash_operator.handlers import Ears, deliver_events
from flash_operator.lease import Elector
from flash_operator.metrics import Metrics, application
from flash_operator.model_controller import ModelController
from flash_operator.pass_log import tell
from flash_operator.probe import PatientProbe, Probe
from flash_operator.queue import Loops
from flash_operator.reconcile import Outcome, reconcile
from flash_operator.scaling import Scaler
from flash_operator.scrape import Scrape
from flash_operator.settings import OperatorSettings
from flash_operator.steady import Steady
from flash_operator.trial import Witness
from flash_operator.watchdog import Watchdog

log = logging.getLogger(__name__)


class Inventory(Protocol):
    """Which objects of one kind there are, and at which version."""

    async def versions(self) -> dict[Key, str]:
        """Resource versions by key. Raises ClusterError."""


class Controller:
    """Everything that one operator process does while it leads."""

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        watched: WatchedObjects,
        *,
        models: Inventory,
        of_models: WatchedObjects,
        probe: Probe,
        scrape: Scrape,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        settings: OperatorSettings,
        metrics: Metrics | None = None,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._watched = watched
        self._probe = PatientProbe(probe, clock)
        self._scaler = Scaler(scrape)
        self._witness = Witness(scrape)
        self._now = now
        self._clock = clock
        self._settings = settings
        self._metrics = metrics if metrics is not None else Metrics()
        self._watchdog = Watchdog(per_namespace=bool(settings.namespaces))
        self._silent = asyncio.Event()
        self._listed_at: float | None = None
        self._loops = Loops(
            self._step, look=self._look, clock=clock, settings=settings.queue, waited=self._metrics.waited
        )
        self._models = ModelController(
            cluster,
            models,
            of_models,
            wake_deployment=self._loops.wake,
            now=now,
            clock=clock,
            settings=settings,
            metrics=self._metrics,
        )
        self._metrics.queue_depth.set_function(lambda: self._loops.waiting)

    def ailments(self) -> tuple[str, ...]:
        """Why this process should be restarted; empty = it is well."""
        found: list[str] = []
        found += [f"events of kind {kind} do not arrive any more" for kind in self._stale_watches()]
        if self._listed_at is not None and self._clock() - self._listed_at > self._settings.blind_max_seconds:
            found.append(f"{names.KIND}s could not be listed for {self._settings.blind_max_seconds:.0f} s")
        if (
            max(self._loops.longest_pass_seconds(), self._models.longest_pass_seconds())
            > self._settings.pass_max_seconds
        ):
            found.append(f"a pass has taken more than {self._settings.pass_max_seconds:.0f} s")
        return tuple(found)

    @contextlib.asynccontextmanager
    async def pages(self) -> AsyncIterator[None]:
        """Serve `/livez` and `/metrics`."""
        runner = web.AppRunner(application(self._metrics, self.ailments), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._settings.metrics_host, self._settings.metrics_port).start()
            yield
        finally:
            await runner.cleanup()

    async def lead(self, elector: Elector) -> None:
        """Act until the Lease is lost; then return or raise. Cancel it to stop.

        Raises ClusterError at once when FlashDeployments cannot be listed: the CRD or a permission is missing.
        """
        await self._inventory.versions()
        await self._models.require_kind()
        self._listed_at = self._clock()
        self._metrics.leading.set(1)
        tasks = [
            asyncio.create_task(elector.hold(), name="hold the lease"),
            asyncio.create_task(self._watched.run(self._listener()), name="watches"),
            asyncio.create_task(self._models.watch(), name="watches of models"),
            asyncio.create_task(self._events(), name="events"),
            asyncio.create_task(self._audit(), name="audit"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._metrics.leading.set(0)
            self._metrics.forget()
            self._listed_at = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(self._loops.aclose(), self._models.aclose())
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _events(self) -> None:
        """Have an event source for as long as we lead: kopf gives up on faults that pass, and may fall silent."""
        await asyncio.gather(self._watched.begun(), self._models.begun())
        # Until then each pass would have to ask for what the lists are about to tell
        failures = 0
        while True:
            started = self._clock()
            cause = await self._event_source()
            lasted = self._clock() - started > self._settings.watch.restart_max_seconds
            failures = 1 if lasted else failures + 1
            log.warning("events are watched anew: %s", cause)
            self._metrics.watch_restarts.inc()
            await asyncio.sleep(self._restart_pause_seconds(failures))
            self._watchdog.reset()
            self._models.begin_anew()
            # What went away while nobody watched is not in the lists that the new source begins with.
            for key in self._loops.keys:
                self._loops.wake(key)

    async def _event_source(self) -> str:
        """Deliver events until the source ends or falls silent; why it did."""
        self._silent.clear()
        watch, namespaces = self._settings.watch, self._settings.namespaces
        source = asyncio.create_task(
            deliver_events(
                Ears(self._loops.wake, self._delivered), self._models.ears, namespaces=namespaces, watch=watch
            )
        )
        silent = asyncio.create_task(self._silent.wait())
        try:
            await asyncio.wait({source, silent}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            silent.cancel()
            source.cancel()
            (ended, _) = await asyncio.gather(source, silent, return_exceptions=True)
        return "a watch had fallen silent" if self._silent.is_set() else f"the event source has ended ({ended!r})"

    def _restart_pause_seconds(self, failures: int) -> float:
        watch = self._settings.watch
        return min(watch.restart_max_seconds, watch.restart_seconds * 2.0 ** min(failures - 1, 30))

    def _delivered(self, key: Key, version: str, *, deleted: bool) -> None:
        self._metrics.heard(names.KIND, self._now().timestamp())
        self._watchdog.delivered(key, version, deleted=deleted)

    def _listener(self) -> Listener:
        def heard(kind: str) -> None:
            self._metrics.heard(kind, self._now().timestamp())

        def restarted(kind: str, cause: str) -> None:
            log.warning("the watch of %s is begun anew: %s", kind, cause)
            self._metrics.watch_restarts.inc()

        return Listener(changed=self._loops.wake, heard=heard, restarted=restarted)

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(self._settings.audit_seconds)
            try:
                for key in self._watchdog.look(await self._inventory.versions()):
                    self._loops.wake(key)
                await self._models.audit()
                self._listed_at = self._clock()
            except ClusterError as error:
                self._metrics.list_failures.inc()
                log.warning("the list of our objects could not be read: %s", error)
            self._metrics.watch_stale.set(bool(self._stale_watches()))
            if self._watchdog.is_stale or self._models.is_deaf:
                self._silent.set()
            self._watched.renew_stale()
            self._metrics.objects.set(len(self._loops.keys))
            self._metrics.failing.set(len(self._loops.failing))

    def _stale_watches(self) -> tuple[str, ...]:
        own = (names.KIND,) if self._watchdog.is_stale else ()
        return (*own, *sorted(self._watched.stale()), *self._models.stale_watches())

    async def _look(self, known: Steady) -> bool:
        """Whether a pass would change nothing: nothing was heard, and the endpoint answers as before."""
        return self._watched.live and known.holds(await self._probe.look(known.url))

    async def _step(self, key: Key) -> Outcome:
        started = self._clock()
        try:
            outcome = await reconcile(
                self._cluster,
                key,
                probe=self._probe,
                now=self._now,
                settings=self._settings.reconcile,
                scaler=self._scaler,
                witness=self._witness,
                names_models=self._models.users.names_models,
            )
        except Exception:
            self._metrics.failed(self._clock() - started)
            raise
        self._metrics.finished(outcome, self._clock() - started)
        self._metrics.is_now(key, outcome)
        self._models.used(key, outcome)
        tell(key, outcome, self._clock() - started)
        return outcome
