"""kopf as the source of events of FlashDeployments, and nothing more: no finalizer, no annotation, no peering, no
state. What belongs to a FlashDeployment is watched by `cluster.watching`.

An event carries no facts here. It names the FlashDeployment to look at; the loop reads it afresh. Whatever kopf loses
(a deletion during a relist, a silent watch) is found by the resync or the watchdog. When kopf gives up, as it does for
some faults that pass, the controller starts it anew.

kopf runs in a thread with a loop of its own: at its end it cancels every task that it finds around it, ours too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import kopf

from flash_api import names
from flash_operator.cluster.protocol import Key
from flash_operator.settings import WatchSettings

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 5.0
"""How long kopf may take to close its watches; it holds nothing that must be saved."""


class Wake(Protocol):
    """Hears which object of ours to look at and, of an event of its own, the generation of its spec."""

    def __call__(self, key: Key, generation: int | None = None) -> None: ...


class Delivered(Protocol):
    """Hears which version of an object of ours an event brought."""

    def __call__(self, key: Key, version: str, *, deleted: bool) -> None: ...


@dataclass(frozen=True)
class Ears:
    """Who hears of the objects of one of our kinds."""

    wake: Wake
    delivered: Delivered


def event_registry(deployments: Ears, models: Ears) -> kopf.OperatorRegistry:
    """Handlers that turn events of FlashDeployments and FlashModels into wake-ups."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_kubeconfig(**context) or kopf.login_with_service_account(**context)

    for plural, ears in ((names.PLURAL, deployments), (names.MODEL_PLURAL, models)):

        @kopf.on.event(names.GROUP, names.VERSION, plural, registry=registry, id=f"own_{plural}")
        async def own_event(*, type: str | None, meta: Mapping[str, Any], ears: Ears = ears, **_: Any) -> None:
            key = Key(meta["namespace"], meta["name"])
            ears.delivered(key, meta.get("resourceVersion", ""), deleted=type == "DELETED")
            ears.wake(key, meta.get("generation"))

    return registry


def kopf_settings(watch: WatchSettings) -> kopf.OperatorSettings:
    """Bounded waits, and nothing written by kopf itself."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Discovery of new kinds and namespaces would need rights on CRDs and namespaces, and we know what we watch.
    settings.scanning.disabled = True
    settings.watching.server_timeout = watch.server_timeout_seconds
    settings.watching.client_timeout = watch.client_timeout_seconds
    settings.watching.connect_timeout = watch.connect_timeout_seconds
    settings.watching.inactivity_timeout = watch.inactivity_seconds
    # kopf decodes all of a chunk, and keeps each object of it until its event is handed over and no other one of the
    # same object has come for so long: both are memory and nothing else.
    settings.watching.chunk_size = 100
    settings.queueing.idle_timeout = 0.01
    settings.networking.request_timeout = watch.request_timeout_seconds
    settings.networking.connect_timeout = watch.connect_timeout_seconds
    # The defaults add up to six minutes in which nobody watches.
    settings.networking.error_backoffs = watch.error_backoffs_seconds
    return settings


async def deliver_events(deployments: Ears, models: Ears, *, namespaces: tuple[str, ...], watch: WatchSettings) -> None:
    """Call back in this loop for every event, until cancelled. Returns or raises when kopf gives up.

    No namespaces = all.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exception | None] = loop.create_future()
    stop = threading.Event()

    def here(ears: Ears) -> Ears:
        def wake(key: Key, generation: int | None = None) -> None:
            loop.call_soon_threadsafe(ears.wake, key, generation)

        def delivered(key: Key, version: str, *, deleted: bool) -> None:
            loop.call_soon_threadsafe(functools.partial(ears.delivered, key, version, deleted=deleted))

        return Ears(wake, delivered)

    def end(error: Exception | None) -> None:
        if not ended.done():
            ended.set_result(error)

    async def run_kopf() -> None:
        # Of several watches that fail together kopf raises one error and forgets the others.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: log.debug("%s", context["message"]))
        await kopf.operator(
            registry=event_registry(here(deployments), here(models)),
            settings=kopf_settings(watch),
            standalone=True,
            # Left to itself it asks for the user's name, and a container's user has none.
            identity=cast(Any, "flashplane"),
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )

    def work() -> None:
        error: Exception | None = None
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(run_kopf())
        except Exception as failure:  # the outermost frame of a thread: whatever it was, the main loop must hear it
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, error)

    # It warns that signals are not its business here (they are ours), and tells each error by several tracebacks before
    # it ends with that error, which the caller tells.
    for module in ("running", "orchestration"):
        logging.getLogger(f"kopf._core.reactor.{module}").setLevel(logging.CRITICAL)
    threading.Thread(target=work, name="kopf", daemon=True).start()
    try:
        error = await asyncio.shield(ended)
        if error is not None:
            raise error
    finally:
        stop.set()
        await asyncio.wait({ended}, timeout=STOP_SECONDS)
