"""Lists that passes share. Whoever asks for one object's children while a list is on its way takes part in the next
list of that kind and namespace, so the cost follows the rounds and not the passes, and nobody is given an answer that
is older than the question.

A list costs the API server a look at every object of the kind in the namespace, chosen or not: with thousands of
deployments beside each other, one list for each pass grows with the square of their number. Knows nothing of HTTP:
`fetch` asks, for a kind, a namespace and a label selector.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from flash_api import names
from flash_operator.cluster.protocol import Key, Manifest

Fetch = Callable[[str, str, str, str], Awaitable[Sequence[Manifest]]]
"""From API version, kind, namespace and label selector. Raises ClusterError."""

NAMES_MAX: Final = 100
"""Of one round: a selector is part of a URL, and a name has up to 63 characters."""
ROUNDS_AT_ONCE: Final = 2
"""Of one kind and namespace: one that hangs does not stop the others, and more would not be shared."""


class _Round:
    """One list, before and after it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.task: asyncio.Task[dict[str, tuple[Manifest, ...]]] | None = None


class _Collection:
    """One kind in one namespace."""

    def __init__(self, fetch: Callable[[str], Awaitable[Sequence[Manifest]]]) -> None:
        self._fetch = fetch
        self._slots = asyncio.Semaphore(ROUNDS_AT_ONCE)
        self._open: _Round | None = None
        self.members = 0

    async def of(self, name: str) -> tuple[Manifest, ...]:
        found = self._open
        if found is None or found.task is None or len(found.names) >= NAMES_MAX:
            found = self._open = _Round()
            found.task = asyncio.create_task(self._run(found))
            found.task.add_done_callback(_heard)
        found.names.add(name)
        assert found.task is not None
        # One of those who wait may be cancelled; the others still wait.
        return (await asyncio.shield(found.task)).get(name, ())

    async def _run(self, asked: _Round) -> dict[str, tuple[Manifest, ...]]:
        async with self._slots:
            if self._open is asked:
                self._open = None  # who asks from now on must not be told what was true before
            children: dict[str, list[Manifest]] = {}
            for item in await self._fetch(_selector(asked.names)):
                children.setdefault(item["metadata"]["labels"][names.LABEL_DEPLOYMENT], []).append(item)
        return {name: tuple(found) for name, found in children.items()}


class SharedLists:
    """The children of FlashDeployments, by kind. Holds nothing while nobody asks."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._collections: dict[tuple[str, str, str], _Collection] = {}

    async def of(self, api_version: str, kind: str, key: Key) -> tuple[Manifest, ...]:
        """The objects of this kind that are labelled as this one's, as they are now or later. Raises ClusterError."""
        which = api_version, kind, key.namespace
        collection = self._collections.get(which)
        if collection is None:
            collection = self._collections[which] = _Collection(lambda selector: self._fetch(*which, selector))
        collection.members += 1
        try:
            return await collection.of(key.name)
        finally:
            collection.members -= 1
            if not collection.members:
                self._collections.pop(which, None)


def _selector(chosen: set[str]) -> str:
    if len(chosen) == 1:
        return f"{names.LABEL_DEPLOYMENT}={next(iter(chosen))}"
    return f"{names.LABEL_DEPLOYMENT} in ({','.join(sorted(chosen))})"


def _heard(task: asyncio.Task[dict[str, tuple[Manifest, ...]]]) -> None:
    """An error is raised in those who wait; where all of them were cancelled, nobody needs it."""
    if not task.cancelled():
        task.exception()
