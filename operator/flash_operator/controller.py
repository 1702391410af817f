"""The running operator: events in, passes out, with its pages, its watchdog and its Lease around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol

from aiohttp import web

from flash_operator.cluster.protocol import Cluster, ClusterError, Key
from flash_operator.handlers import deliver_events
from flash_operator.lease import Elector
from flash_operator.metrics import Metrics, application
from flash_operator.probe import Probe
from flash_operator.queue import Loops
from flash_operator.reconcile import Outcome, reconcile
from flash_operator.scaling import Scaler
from flash_operator.scrape import Scrape
from flash_operator.settings import OperatorSettings
from flash_operator.watchdog import Watchdog

log = logging.getLogger(__name__)


class Inventory(Protocol):
    """Which FlashDeployments there are, and at which version."""

    async def versions(self) -> dict[Key, str]:
        """Resource versions by key. Raises ClusterError."""


class Controller:
    """Everything that one operator process does while it leads."""

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        *,
        probe: Probe,
        scrape: Scrape,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        settings: OperatorSettings,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._probe = probe
        self._scaler = Scaler(scrape)
        self._now = now
        self._clock = clock
        self._settings = settings
        self._metrics = Metrics()
        self._watchdog = Watchdog()
        self._loops = Loops(self._step, clock=clock, settings=settings.queue)

    def ailments(self) -> tuple[str, ...]:
        """Why this process should be restarted; empty = it is well."""
        found = []
        if self._watchdog.is_stale:
            found.append("events of FlashDeployments do not arrive any more")
        if self._loops.longest_pass_seconds() > self._settings.pass_max_seconds:
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
        """Act until the Lease is lost or events cannot be had; then return or raise. Cancel it to stop.

        Raises ClusterError at once when FlashDeployments cannot be listed: the CRD or a permission is missing.
        """
        await self._inventory.versions()
        self._metrics.leading.set(1)
        tasks = [
            asyncio.create_task(elector.hold(), name="hold the lease"),
            asyncio.create_task(self._events(), name="events"),
            asyncio.create_task(self._audit(), name="audit"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._metrics.leading.set(0)
            for task in tasks:
                task.cancel()
            await self._loops.aclose()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _events(self) -> None:
        await deliver_events(self._loops.wake, self._watchdog.delivered, namespaces=self._settings.namespaces)
        log.error("the event source has ended")

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(self._settings.audit_seconds)
            try:
                for key in self._watchdog.look(await self._inventory.versions()):
                    self._loops.wake(key)
            except ClusterError as error:
                log.warning("the list of FlashDeployments could not be read: %s", error)
            self._metrics.watch_stale.set(self._watchdog.is_stale)
            self._metrics.objects.set(len(self._loops.keys))

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
            )
        except Exception:
            self._metrics.failed(self._clock() - started)
            raise
        self._metrics.finished(outcome, self._clock() - started)
        changed = [*(f"applied {name}" for name in outcome.applied), *(f"deleted {name}" for name in outcome.deleted)]
        log.log(logging.INFO if changed else logging.DEBUG, "%s: %s", key, ", ".join(changed) or "nothing to do")
        return outcome
