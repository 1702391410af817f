"""What happens in one namespace, as it happens: the objects of all FlashDeployments there (or of all FlashModels),
mirrored from watches.

The source of events for an operator inside the test's process, of pods for the fake kubelet, and of the tally of
objects made and removed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from live_api import LiveApi, cancelled

from flash_api import names
from flash_operator.cluster.kubernetes import MODEL_OWNED_KINDS, OWNED_KINDS

Manifest = dict[str, Any]
Listener = Callable[[str, Manifest], None]

BORN_OF_CHILDREN = (("apps/v1", "ReplicaSet"), ("v1", "Pod"))
"""What the controllers make of our Deployments, with our label from the pod template."""


@dataclass(frozen=True)
class Family:
    """One kind of ours, what it owns, and what comes of that; all found by one label."""

    kind: str
    label: str
    owned: tuple[tuple[str, str], ...]
    born: tuple[tuple[str, str], ...]


DEPLOYMENTS = Family(names.KIND, names.LABEL_DEPLOYMENT, OWNED_KINDS, BORN_OF_CHILDREN)
MODELS = Family(names.MODEL_KIND, names.LABEL_MODEL, MODEL_OWNED_KINDS, (("v1", "Pod"),))
DEADLINE_SECONDS = 240.0


class Feed:
    """An async context manager. Everything in it is keyed by the name of the object of ours that it comes of."""

    def __init__(self, api: LiveApi, namespace: str, family: Family = DEPLOYMENTS) -> None:
        self._api = api
        self._family = family
        self.namespace = namespace
        self.objects: dict[str, dict[tuple[str, str], Manifest]] = {}
        self.made: dict[str, Counter[str]] = {}
        self.removed: dict[str, Counter[str]] = {}
        self._listeners: list[Listener] = []
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        family = self._family
        own = (names.API_VERSION, family.kind)
        self._tasks = [
            asyncio.create_task(self._follow(*kind, "" if kind == own else family.label))
            for kind in (own, *family.owned, *family.born)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancelled(*self._tasks)

    def listen(self, listener: Listener) -> None:
        """Call it for every event, with the event's type and the object, after the mirror has changed."""
        self._listeners.append(listener)

    def of(self, name: str) -> dict[tuple[str, str], Manifest]:
        """Kind and name → object, for one FlashDeployment and all that came of it."""
        return self.objects.setdefault(name, {})

    async def until(self, name: str, fact: Callable[[], Any], what: str = "") -> None:
        """Wait until the fact holds; it is asked anew after each event about the FlashDeployment."""
        heard = asyncio.Event()
        waiting = self._waiting.setdefault(name, set())
        waiting.add(heard)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not fact():
                    self._require_watches()
                    heard.clear()
                    await heard.wait()
        except TimeoutError:
            raise AssertionError(f"{name}: not within {DEADLINE_SECONDS:.0f} s: {what}") from None
        finally:
            waiting.discard(heard)

    def _require_watches(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    def tell(self, name: str) -> None:
        """Something that no watch brings has changed: those who wait look again."""
        for heard in self._waiting.get(name, ()):
            heard.set()

    async def _follow(self, api_version: str, kind: str, selector: str) -> None:
        try:
            async for event in self._api.events(api_version, kind, self.namespace, selector):
                self._take(event["type"], event["object"])
        finally:
            for name in self._waiting:  # without this watch they would wait for nothing
                self.tell(name)

    def _take(self, event: str, found: Manifest) -> None:
        meta = found["metadata"]
        name = meta["name"] if found["kind"] == self._family.kind else meta["labels"][self._family.label]
        identity = (found["kind"], meta["name"])
        if event == "DELETED":
            self.of(name).pop(identity, None)
            self.removed.setdefault(name, Counter())[found["kind"]] += 1
        else:
            self.of(name)[identity] = found
            if event == "ADDED":
                self.made.setdefault(name, Counter())[found["kind"]] += 1
        for listener in self._listeners:
            listener(event, found)
        self.tell(name)
