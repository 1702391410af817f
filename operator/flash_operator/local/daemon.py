"""The background process of a state directory: the operator's reconcile loops and the supervisor, and a socket by which
commands reach them. Ends by itself when there is nothing left to serve.

    python -m flash_operator.local.daemon STATE_DIRECTORY
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from flash_api.names import KIND, LABEL_DEPLOYMENT
from flash_operator.cluster.protocol import Key
from flash_operator.local.clock import MonotonicClock, utc_timestamp
from flash_operator.local.cluster import LocalCluster
from flash_operator.local.place import ENV_OWNER, Place, cache_dir
from flash_operator.local.pod_report import pods_of
from flash_operator.local.podspec import Machine
from flash_operator.local.processes import kill_marked
from flash_operator.local.report import report
from flash_operator.local.secrets import unreferenced
from flash_operator.local.store import Ref, Store, ref_of
from flash_operator.local.supervisor import Supervisor
from flash_operator.local.tritonserver import sweep_shared_memory
from flash_operator.local.wire import LARGEST_MESSAGE_BYTES, encode, short_address
from flash_operator.plan import PlanSettings
from flash_operator.probe import HttpProbe
from flash_operator.reconcile import ReconcileSettings, reconcile
from flash_operator.scaling import Scaler
from flash_operator.scrape import HttpScrape
from flash_operator.trial import Witness

IDLE_SECONDS: Final = 15.0
"""How long a daemon without any FlashDeployment waits for its first one."""
LOCK_SECONDS: Final = 20.0
"""How long to wait for a former daemon that is stopping its processes."""
FAILURE_PAUSE_SECONDS: Final = 5.0
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_", "TZ", "LD_LIBRARY_PATH", "XDG_", "SSL_CERT_", "PIP_", "FLASHPLANE_")
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_NOT_INHERITED: Final = ("FLASHPLANE_API_KEY",)

log = logging.getLogger(__name__)


class Daemon:
    """Everything that runs in the background for one state directory."""

    def __init__(self, place: Place, machine: Machine) -> None:
        self._place = place
        self._store = Store(place.objects, now=utc_timestamp)
        self._supervisor = Supervisor(self._store, machine, clock=MonotonicClock())
        self._cluster = LocalCluster(self._store, lambda key: pods_of(key, self._supervisor.pods()))
        self._probe = HttpProbe()
        self._scrape = HttpScrape()
        self._scaler = Scaler(self._scrape)
        self._witness = Witness(self._scrape)
        self._settings = ReconcileSettings(
            plan=PlanSettings(has_outside=False), waiting_seconds=0.5, ready_seconds=10.0
        )
        self._wakes: dict[Key, asyncio.Event] = {}
        self._loops: dict[Key, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._finish = asyncio.Event()
        self._told_down = False
        self._store.on_change(self._notice)

    async def run(self) -> None:
        """Serve until told to stop or until nothing is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finish.set)
        self._place.socket.unlink(missing_ok=True)
        with short_address(self._place.socket) as address:
            server = await asyncio.start_unix_server(self._answer, address, limit=LARGEST_MESSAGE_BYTES)
        self._place.socket.chmod(0o600)
        supervising = asyncio.ensure_future(self._supervisor.run())
        following = asyncio.ensure_future(self._follow_all())
        finishing = asyncio.ensure_future(self._finish.wait())
        try:
            done, _ = await asyncio.wait((supervising, following, finishing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._place.socket.unlink(missing_ok=True)
            server.close()
            tasks = (supervising, following, finishing, *self._loops.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._supervisor.stop()
            await self._probe.aclose()
            await self._scrape.aclose()
        for task in done:
            task.result()

    async def _follow_all(self) -> None:
        """One reconcile loop for each FlashDeployment; returns when there has been none for a while."""
        idle_since = time.monotonic()
        while True:
            self._changed.clear()
            for key in map(_key, self._store.list(KIND)):
                if key not in self._loops or self._loops[key].done():
                    self._wakes[key] = asyncio.Event()
                    self._loops[key] = asyncio.ensure_future(self._follow(key))
            if not self._store.is_empty(KIND) or not self._supervisor.is_idle:
                idle_since = time.monotonic()
            # The last deployment is gone and stopped, or none ever came.
            if time.monotonic() - idle_since > (0.2 if self._loops or self._told_down else IDLE_SECONDS):
                log.info("nothing left to serve")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1 if self._store.is_empty(KIND) else None):
                    await self._changed.wait()

    async def _follow(self, key: Key) -> None:
        wake = self._wakes[key]
        while True:
            wake.clear()
            pause: float | None = FAILURE_PAUSE_SECONDS
            try:
                outcome = await reconcile(
                    self._cluster,
                    key,
                    probe=self._probe,
                    now=lambda: datetime.now(UTC),
                    settings=self._settings,
                    scaler=self._scaler,
                    witness=self._witness,
                )
                if outcome.gone:
                    return
                pause = outcome.requeue_after_seconds
            except Exception:  # the outermost loop: a fault in one pass must not end the next
                log.exception("reconciling %s failed", key)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    def _notice(self, _: Ref) -> None:
        self._changed.set()
        for wake in self._wakes.values():
            wake.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            answer = self._do(request)
        except OSError as error:
            log.warning("request failed: %s", error)
            answer = {"error": f"the background process could not do it: {error}"}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("request refused: %s", error)
            answer = {"error": f"the daemon does not understand: {error!r}"}
        writer.write(encode(answer))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "ping":
                return {"pid": os.getpid()}
            case "status":
                pods = [(pod.spec.namespace, pod.spec.labels.get(LABEL_DEPLOYMENT)) for pod in self._supervisor.pods()]
                return {"pid": os.getpid(), "deployments": report(self._store, self._supervisor), "pods": pods}
            case "apply":
                self._told_down = False
                return {"applied": [self._store.apply(manifest) for manifest in request["manifests"]]}
            case "leave":
                # The command that started us has nothing to serve, but another one may have brought something since.
                self._told_down = self._told_down or request["pid"] == os.getpid()
                self._changed.set()
                return {"pid": os.getpid()}
            case "down":
                gone = [Ref(KIND, namespace, name) for namespace, name in request["deployments"]]
                self._told_down = True
                for ref in gone:
                    self._store.delete(ref)
                for ref in unreferenced(self._store):
                    self._store.delete(ref)
                return {}
            case other:
                raise ValueError(f"unknown request {other!r}")


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What of a shell's environment processes may see: no tokens that happen to be set there."""
    return {
        name: value
        for name, value in env.items()
        if (name.startswith(_INHERITED) or name in _PROXIES) and name not in _NOT_INHERITED
    }


def main() -> None:
    place = Place(Path(sys.argv[1]))
    place.create()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[logging.handlers.RotatingFileHandler(place.daemon_log, maxBytes=4 * 1024**2, backupCount=1)],
    )
    with place.lock.open("w") as lock:
        if not _lock(lock.fileno()):
            raise SystemExit(f"another daemon serves {place.root}")
        lock.write(str(os.getpid()))
        lock.flush()
        if leftovers := kill_marked(ENV_OWNER, str(place.root)):
            log.warning("stopped %d processes that a former daemon left behind", leftovers)
            sweep_shared_memory()
            shutil.rmtree(place.pods, ignore_errors=True)
        machine = Machine(
            place=place,
            cache=cache_dir(os.environ),
            bin=Path(sys.executable).parent,
            python=Path(sys.executable),
            env=inherited(os.environ),
        )
        try:
            asyncio.run(_run(place, machine))
        except Exception:
            log.exception("the daemon ends")
            raise
        finally:
            if kill_marked(ENV_OWNER, str(place.root)):
                sweep_shared_memory()


async def _run(place: Place, machine: Machine) -> None:
    await Daemon(place, machine).run()


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _key(manifest: Mapping[str, Any]) -> Key:
    ref = ref_of(manifest)
    return Key(ref.namespace, ref.name)


if __name__ == "__main__":
    main()
