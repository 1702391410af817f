"""The FlashModels' part of the running operator: loops, watchdogs, and word to the deployments that name a model.

The same parts as for FlashDeployments, in sets of their own: a FlashModel may have the name of a FlashDeployment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

from flash_api import names
from flash_operator.cluster.protocol import Cluster, Key
from flash_operator.cluster.watching import Listener, WatchedObjects
from flash_operator.handlers import Ears
from flash_operator.metrics import Metrics
from flash_operator.model_users import ModelUsers
from flash_operator.pass_log import tell
from flash_operator.queue import Loops
from flash_operator.reconcile import Outcome
from flash_operator.reconcile_model import reconcile_model
from flash_operator.settings import OperatorSettings
from flash_operator.watchdog import Watchdog

log = logging.getLogger(__name__)

CONCURRENCY: Final = 4
"""Passes of different models at the same time: there are few, and Jobs do the work."""


class Inventory(Protocol):
    """Which FlashModels there are, and at which version."""

    async def versions(self) -> dict[Key, str]:
        """Resource versions by key. Raises ClusterError."""


class ModelController:
    """Everything about FlashModels that one operator process does while it leads."""

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        watched: WatchedObjects,
        *,
        wake_deployment: Callable[[Key], None],
        now: Callable[[], datetime],
        clock: Callable[[], float],
        settings: OperatorSettings,
        metrics: Metrics,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._watched = watched
        self._wake_deployment = wake_deployment
        self._now = now
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._watchdog = Watchdog(per_namespace=bool(settings.namespaces))
        self._loops = Loops(self._step, clock=clock, settings=replace(settings.queue, concurrency=CONCURRENCY))
        self.users = ModelUsers()

    @property
    def ears(self) -> Ears:
        """Hear of FlashModels."""
        return Ears(self._changed, self._delivered)

    @property
    def is_deaf(self) -> bool:
        """Events of FlashModels do not arrive any more."""
        return self._watchdog.is_stale

    async def watch(self) -> None:
        """Watch what FlashModels own, until cancelled."""

        def heard(kind: str) -> None:
            self._metrics.heard(kind, self._now().timestamp())

        def restarted(kind: str, cause: str) -> None:
            log.warning("the watch of %s of FlashModels is begun anew: %s", kind, cause)
            self._metrics.watch_restarts.inc()

        await self._watched.run(Listener(changed=self._loops.wake, heard=heard, restarted=restarted))

    async def begun(self) -> None:
        """Wait until each first list was had, or has failed."""
        await self._watched.begun()

    async def require_kind(self) -> None:
        """Raises ClusterError when FlashModels cannot be listed: the CRD or a permission is missing."""
        await self._inventory.versions()

    def used(self, deployment: Key, outcome: Outcome) -> None:
        """A pass over a FlashDeployment has ended. Where it changed something, its models have other users perhaps."""
        if outcome.applied or outcome.deleted:
            for model in self.users.models_of(deployment):
                self._loops.wake(model)

    async def audit(self) -> None:
        """Look at what no event has told of. Raises ClusterError."""
        for key in self._watchdog.look(await self._inventory.versions()):
            self._changed(key)
        self._watched.renew_stale()

    def stale_watches(self) -> tuple[str, ...]:
        """Kinds whose events do not arrive any more."""
        own = (names.MODEL_KIND,) if self._watchdog.is_stale else ()
        return (*own, *sorted(self._watched.stale()))

    def longest_pass_seconds(self) -> float:
        """How long the oldest pass that still runs has taken so far."""
        return self._loops.longest_pass_seconds()

    def begin_anew(self) -> None:
        """The watches start over; what went away while nobody watched will not be in their lists."""
        self._watchdog.reset()
        for key in self._loops.keys:
            self._loops.wake(key)

    async def aclose(self) -> None:
        """Stop all loops, wherever they are, for good."""
        await self._loops.aclose()

    def _changed(self, key: Key, generation: int | None = None) -> None:
        """A FlashModel has changed, is new or is gone: for those who name it, that is a reason to look too."""
        self._loops.wake(key, generation)
        for deployment in self.users.of(key):
            self._wake_deployment(deployment)

    def _delivered(self, key: Key, version: str, *, deleted: bool) -> None:
        self._metrics.heard(names.MODEL_KIND, self._now().timestamp())
        self._watchdog.delivered(key, version, deleted=deleted)

    async def _step(self, key: Key) -> Outcome:
        started = self._clock()
        try:
            outcome = await reconcile_model(self._cluster, key, now=self._now, settings=self._settings.reconcile)
        except Exception:
            self._metrics.failed(self._clock() - started)
            raise
        self._metrics.finished(outcome, self._clock() - started)
        tell(key, outcome, self._clock() - started)
        return outcome
