"""Watches of everything that belongs to FlashDeployments, so that a pass need not ask for what has not changed.

Each kind in each served namespace has a list to begin with and a watch from there; what they tell is held by
`Holdings`. A watch that fails, ends in nonsense or falls silent is replaced, and until it is back its kind counts as
unknown: passes read it afresh then. What we write is held at once, and a watch that does not bring it is a dead one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flash_api import names
from flash_operator.cluster.api import KubernetesApi
from flash_operator.cluster.holdings import Holdings, version_of
from flash_operator.cluster.protocol import ClusterError, Key, Manifest

PAGE_ITEMS: Final = 250
LISTS_AT_ONCE: Final = 2
"""A page takes ten times its size while it is decoded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchTimes:
    """How long what is trusted."""

    server_timeout_seconds: float = 240.0
    """The API server ends each watch after this, and the next one goes on from where it was."""
    silence_seconds: float = 70.0
    """The API server sends a bookmark each minute, so more silence is a dead connection."""
    request_timeout_seconds: float = 30.0
    patience_seconds: float = 30.0
    """How late the watch may bring what we wrote ourselves."""
    relist_seconds: float = 1800.0
    """What no event ever told is found at the latest after this and one `server_timeout_seconds`."""
    retry_seconds: float = 0.5
    """The pause after a failure. It doubles while that does not help, up to the next one."""
    retry_max_seconds: float = 15.0


@dataclass(frozen=True)
class Listener:
    """Who hears of what."""

    changed: Callable[[Key], None] = lambda owner: None
    """Something that belongs to this FlashDeployment has changed, and not by what we wrote."""
    heard: Callable[[str], None] = lambda kind: None
    """An event of this kind has come."""
    restarted: Callable[[str, str], None] = lambda kind, cause: None
    """The watch of this kind is begun anew."""


class WatchedKind:
    """One kind in one namespace, or in all."""

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        api_version: str,
        kind: str,
        *,
        times: WatchTimes,
        clock: Callable[[], float],
        label: str = names.LABEL_DEPLOYMENT,
    ) -> None:
        self.kind = kind
        self.live = False
        """What is held is what there is, but for what is on its way."""
        self.begun = asyncio.Event()
        """The first list was had, or has failed."""
        self.holdings = Holdings(api_version, kind, label)
        self._label = label
        self._api = api
        self._path = path
        self._times = times
        self._clock = clock
        self._version: str | None = None
        """Where the watch goes on; None = it begins with a list."""
        self._listed_at = clock()
        self._heard_at = clock()
        self._expected: dict[tuple[str, str], tuple[int, float]] = {}
        """Version and time of what we wrote and no event has brought, by namespace and name."""
        self._attempt: asyncio.Task[None] | None = None

    def wrote(self, manifest: Manifest) -> None:
        """The API server answered a write of ours with this."""
        if self.live and self._is_ours(manifest) and self.holdings.put(manifest):
            meta = manifest["metadata"]
            self._expected[meta["namespace"], meta["name"]] = (version_of(manifest), self._clock())

    def deleted(self, manifest: Manifest) -> None:
        """The API server was asked to delete it, as it was at this version."""
        if self.live and self._is_ours(manifest):
            self.holdings.drop(manifest)

    def _is_ours(self, manifest: Manifest) -> bool:
        """Objects of one kind may belong to FlashDeployments or to FlashModels."""
        return self._label in (manifest["metadata"].get("labels") or {})

    @property
    def stale(self) -> bool:
        """The watch is dead: it brings neither what we wrote nor anything else."""
        oldest = min((at for _, at in self._expected.values()), default=self._clock())
        return self._clock() - max(oldest, self._heard_at) > self._times.patience_seconds

    def renew(self) -> None:
        """Begin anew, with a list."""
        self._forget()
        if self._attempt is not None:
            self._attempt.cancel()

    async def run(self, listener: Listener, lists: asyncio.Semaphore) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            self._attempt = asyncio.create_task(self._follow(listener, lists), name=f"watch {self._path}")
            begun = self._clock()
            try:
                await asyncio.wait({self._attempt})
            finally:
                self._attempt.cancel()
            cause = self._cause(self._attempt)
            self.begun.set()
            self.live = False
            lasted = self._clock() - begun > self._times.retry_max_seconds
            failures = 1 if lasted else failures + 1
            listener.restarted(self.kind, cause)
            pause = self._times.retry_seconds * 2.0 ** min(failures - 1, 30)
            await asyncio.sleep(min(self._times.retry_max_seconds, pause))

    @staticmethod
    def _cause(ended: asyncio.Task[None]) -> str:
        if ended.cancelled():
            return "it had fallen silent"
        error = ended.exception()
        if error is not None and not isinstance(error, ClusterError):
            raise error
        return str(error)

    async def _follow(self, listener: Listener, lists: asyncio.Semaphore) -> None:
        """One watch after the other. Raises ClusterError when one fails."""
        while True:
            if self._version is None or self._clock() - self._listed_at > self._times.relist_seconds:
                async with lists:
                    await self._list(listener)
            await self._watch(listener)

    async def _list(self, listener: Listener) -> None:
        try:
            await self._list_pages(listener)
        except (ValueError, TypeError, KeyError) as error:
            raise ClusterError(f"the answer is no list ({error!r})") from error

    async def _list_pages(self, listener: Listener) -> None:
        had_one, listed, news = self._version is not None or self.begun.is_set(), set(), set[Key]()
        more: dict[str, Any] = {}
        while True:
            answer = await self._api.request("get", self._path, label_selector=self._label, limit=PAGE_ITEMS, **more)
            for item in answer["items"] or ():
                listed.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                news |= self.holdings.put(item)
            meta = answer["metadata"]
            if not meta.get("continue"):
                break
            more = {"_continue": meta["continue"]}
        news |= self.holdings.retain(listed, version_of(answer))
        self._version = str(meta["resourceVersion"])
        self._expected.clear()
        self._listed_at = self._heard_at = self._clock()
        self.live = True
        self.begun.set()
        # The first list tells of no change: whoever has something is woken by its FlashDeployment.
        for owner in news if had_one else ():
            listener.changed(owner)

    async def _watch(self, listener: Listener) -> None:
        # Watches that began together shall not end together.
        seconds = round(self._times.server_timeout_seconds * random.uniform(0.75, 1.0))
        begun = self._clock()
        async with self._api.watch(
            self._path,
            header_seconds=self._times.request_timeout_seconds,
            silence_seconds=self._times.silence_seconds,
            label_selector=self._label,
            resource_version=self._version,
            timeout_seconds=max(1, seconds),
        ) as lines:
            self.live = True
            async for line in lines:
                self._hear(line, listener)
        if self._clock() - begun < self._times.retry_seconds:
            raise ClusterError("the watch ended as soon as it had begun")

    def _hear(self, line: bytes, listener: Listener) -> None:
        try:
            event = json.loads(line)
            what, found = event["type"], event["object"]
            if what == "ERROR":
                raise ClusterError(f"the watch ended with an error: {found.get('message') or found.get('code')}")
            version = version_of(found)
            if what != "BOOKMARK":
                self._take(what, found, listener)
        except (ValueError, TypeError, KeyError) as error:
            self._forget()
            raise ClusterError(f"the watch brought what is no event ({error!r})") from error
        except ClusterError:
            self._forget()
            raise
        self._version = str(version)

    def _take(self, what: str, found: Manifest, listener: Listener) -> None:
        meta = found["metadata"]
        news = self.holdings.drop(found) if what == "DELETED" else self.holdings.put(found)
        identity = meta["namespace"], meta["name"]
        if identity in self._expected and self._expected[identity][0] <= version_of(found):
            del self._expected[identity]
        self._heard_at = self._clock()
        listener.heard(self.kind)
        for owner in news:
            listener.changed(owner)

    def _forget(self) -> None:
        """Where the watch stood is no longer to be trusted."""
        self.live = False
        self._version = None
        self._expected.clear()


class WatchedObjects:
    """All kinds in all served namespaces. `of` answers while the kind is live, else None."""

    def __init__(self, watched: Sequence[tuple[str | None, WatchedKind]]) -> None:
        """Pairs of the namespace, None = all, and what is watched there."""
        self._watched = {(kind.kind, namespace): kind for namespace, kind in watched}

    def of(self, kind: str, key: Key) -> tuple[Manifest, ...] | None:
        """The objects of the kind that belong to it, as last heard; None = it is not known."""
        found = self._find(kind, key.namespace)
        return found.holdings.of(key) if found is not None and found.live else None

    def wrote(self, manifest: Manifest) -> None:
        """The API server answered a write of ours with this."""
        if (found := self._find(manifest["kind"], manifest["metadata"]["namespace"])) is not None:
            found.wrote(manifest)

    def deleted(self, manifest: Manifest) -> None:
        """The API server was asked to delete it."""
        if (found := self._find(manifest["kind"], manifest["metadata"]["namespace"])) is not None:
            found.deleted(manifest)

    @property
    def live(self) -> bool:
        """Everything is known."""
        return all(kind.live for kind in self._watched.values())

    def stale(self) -> frozenset[str]:
        """Kinds whose watch is dead."""
        return frozenset(kind.kind for kind in self._watched.values() if kind.stale)

    def renew_stale(self) -> None:
        """Begin dead watches anew."""
        for kind in self._watched.values():
            if kind.stale:
                kind.renew()

    async def begun(self) -> None:
        """Wait until each first list was had, or has failed."""
        await asyncio.gather(*(kind.begun.wait() for kind in self._watched.values()))

    async def run(self, listener: Listener) -> None:
        """Watch until cancelled."""
        lists = asyncio.Semaphore(LISTS_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for kind in self._watched.values():
                tasks.create_task(kind.run(listener, lists))

    def _find(self, kind: str, namespace: str) -> WatchedKind | None:
        return self._watched.get((kind, None)) or self._watched.get((kind, namespace))
