"""kopf as a source of events, and nothing more: no finalizer, no annotation, no peering, no state.

An event carries no facts here. It names the FlashDeployment to look at; the loop reads everything afresh. Whatever kopf
loses (a deletion during a relist, a silent watch) is found by the resync, the watchdog, or a restart.

kopf runs in a thread with a loop of its own: at its end it cancels every task that it finds around it, ours too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Mapping
from typing import Any, Final, Protocol

import kopf

from flash_api import names
from flash_operator.cluster.protocol import Key

SERVER_TIMEOUT_SECONDS: Final = 240
"""The API server ends each watch request after this, and kopf opens the next from where it was. It takes whole numbers
only."""
CLIENT_TIMEOUT_SECONDS: Final = 300.0
"""Where the server's end does not arrive, ours does."""
INACTIVITY_SECONDS: Final = 70.0
"""The API server sends a bookmark each minute, so more silence is a dead connection."""

STOP_SECONDS: Final = 5.0
"""How long kopf may take to close its watches; it holds nothing that must be saved."""

CHILDREN: Final = (("apps", "v1", "deployments"), ("", "v1", "services"), ("", "v1", "configmaps"))


class Wake(Protocol):
    """Hears which FlashDeployment to look at and, of an event of its own, the generation of its spec."""

    def __call__(self, key: Key, generation: int | None = None) -> None: ...


class Delivered(Protocol):
    """Hears which version of a FlashDeployment an event brought."""

    def __call__(self, key: Key, version: str, *, deleted: bool) -> None: ...


def event_registry(wake: Wake, delivered: Delivered) -> kopf.OperatorRegistry:
    """Handlers that turn events of FlashDeployments and of their children into wake-ups."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_kubeconfig(**context) or kopf.login_with_service_account(**context)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def own_event(*, type: str | None, meta: Mapping[str, Any], **_: Any) -> None:
        key = Key(meta["namespace"], meta["name"])
        delivered(key, meta.get("resourceVersion", ""), deleted=type == "DELETED")
        wake(key, meta.get("generation"))

    for group, version, plural in CHILDREN:

        @kopf.on.event(
            group,
            version,
            plural,
            registry=registry,
            id=f"child_{plural}",
            labels={names.LABEL_DEPLOYMENT: kopf.PRESENT},
        )
        async def child_event(*, meta: Mapping[str, Any], **_: Any) -> None:
            wake(Key(meta["namespace"], meta["labels"][names.LABEL_DEPLOYMENT]))

    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """Bounded waits, our children only, and nothing written by kopf itself."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Discovery of new kinds and namespaces would need rights on CRDs and namespaces, and we know what we watch.
    settings.scanning.disabled = True
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = CLIENT_TIMEOUT_SECONDS
    settings.watching.connect_timeout = 10.0
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    # Memory must not grow with objects that are none of ours.
    for group, version, plural in CHILDREN:
        settings.watching.label_selectors[group, version, plural] = names.LABEL_DEPLOYMENT
    return settings


async def deliver_events(wake: Wake, delivered: Delivered, *, namespaces: tuple[str, ...]) -> None:
    """Call back in this loop for every event, until cancelled. Returns or raises when kopf gives up, which is fatal.

    No namespaces = all.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    stop = threading.Event()

    def wake_here(key: Key, generation: int | None = None) -> None:
        loop.call_soon_threadsafe(wake, key, generation)

    def delivered_here(key: Key, version: str, *, deleted: bool) -> None:
        loop.call_soon_threadsafe(functools.partial(delivered, key, version, deleted=deleted))

    def end(error: Exception | None) -> None:
        if not ended.done():
            ended.set_exception(error) if error is not None else ended.set_result(None)

    def work() -> None:
        error: Exception | None = None
        try:
            kopf.run(
                registry=event_registry(wake_here, delivered_here),
                settings=kopf_settings(),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=namespaces,
                stop_flag=stop,
            )
        except Exception as failure:  # the outermost frame of a thread: whatever it was, the main loop must hear it
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, error)

    # It warns that signals are not its business here; they are ours.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    threading.Thread(target=work, name="kopf", daemon=True).start()
    try:
        await asyncio.shield(ended)
    finally:
        stop.set()
        await asyncio.wait({ended}, timeout=STOP_SECONDS)
