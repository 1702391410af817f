"""The commands' side of the daemon: start it, ask it, and work without it. Knows no terminal."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flash_operator.local import wire
from flash_operator.local.clock import utc_timestamp
from flash_operator.local.logs import last_line
from flash_operator.local.place import ENV_OWNER, ENV_STATE, Place
from flash_operator.local.store import Manifest, Ref, Store
from flash_operator.local.tritonserver import sweep_shared_memory

START_SECONDS = 30.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Snapshot:
    """What runs at one moment."""

    daemon_pid: int | None
    deployments: tuple[dict[str, Any], ...]
    """`{manifest, processes}` each, see `report.py`."""
    pods: tuple[tuple[str, str], ...] = ()
    """Namespace and FlashDeployment of every pod that has not ended yet."""


class Client:
    """One state directory, with or without a running daemon."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def snapshot(self) -> Snapshot:
        """What the daemon says; without one, what is stored. Raises StoreError."""
        try:
            answer = wire.request(self.place.socket, {"do": "status"})
        except wire.DaemonUnavailableError:
            stored = Store(self.place.objects, now=utc_timestamp).list("FlashDeployment")
            return Snapshot(None, tuple({"manifest": manifest, "processes": []} for manifest in stored))
        pods = tuple((namespace, name) for namespace, name in answer["pods"])
        return Snapshot(answer["pid"], tuple(answer["deployments"]), pods)

    def start_daemon(self) -> subprocess.Popen[bytes] | None:
        """Start one unless it runs already; `wait_for_daemon` says when it answers. Raises DaemonUnavailableError."""
        if self._answers():
            return None
        try:
            self.place.create()
            log = self.place.daemon_log.open("ab")
        except OSError as error:
            raise wire.DaemonUnavailableError(
                f"the state directory {self.place.root} cannot be used ({error.strerror}): set {ENV_STATE} to another"
            ) from error
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "flash_operator.local.daemon", str(self.place.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.place.root,
                start_new_session=True,  # it outlives the terminal
            )

    def abandon_daemon(self, started: subprocess.Popen[bytes] | None) -> None:
        """Undo `start_daemon`, unless the daemon serves what another command has brought it meanwhile."""
        if started is None:
            return
        try:
            answering = wire.request(self.place.socket, {"do": "leave", "pid": started.pid})["pid"]
        except wire.DaemonUnavailableError:
            answering = None
        if answering != started.pid:  # it is still on its way, or waits behind another one
            started.terminate()
            started.wait()

    def wait_for_daemon(self, started: subprocess.Popen[bytes] | None) -> None:
        """Raises DaemonUnavailableError with the daemon's last words."""
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if (started is not None and started.poll() is not None) or time.monotonic() > deadline:
                raise wire.DaemonUnavailableError(
                    f"the background process did not start: {last_line(self.place.daemon_log)} "
                    f"(log: {self.place.daemon_log})"
                )
            time.sleep(POLL_SECONDS)
        if started is not None and self.snapshot().daemon_pid != started.pid:
            # Another command was faster; ours must not wait for its turn and serve this directory once more.
            started.terminate()
            started.wait()

    def apply(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Store the objects; the stored form of each."""
        answer = wire.request(self.place.socket, {"do": "apply", "manifests": list(manifests)})
        applied: list[Manifest] = answer["applied"]
        return applied

    def down(self, deployments: Sequence[tuple[str, str]], *, waiting: Callable[[int], None]) -> None:
        """Remove FlashDeployments and wait until their processes, and with the last one the daemon, have ended."""
        try:
            wire.request(self.place.socket, {"do": "down", "deployments": list(deployments)})
        except wire.DaemonUnavailableError:
            self._down_without_daemon(deployments)
            return
        while True:
            left = self.snapshot()
            running = [pod for pod in left.pods if pod in deployments]
            if not running and (left.daemon_pid is None or left.deployments):
                break
            waiting(len(running))
            time.sleep(POLL_SECONDS)
        if not left.deployments:
            with self.place.lock.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the daemon holds it until its very end

    def _down_without_daemon(self, deployments: Sequence[tuple[str, str]]) -> None:
        # Imported here: reading all of /proc is for this rare case only.
        from flash_operator.local.processes import kill_marked

        if not self.place.root.exists():
            return
        with self.place.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if kill_marked(ENV_OWNER, str(self.place.root)):
                sweep_shared_memory()
            self.place.socket.unlink(missing_ok=True)
            shutil.rmtree(self.place.pods, ignore_errors=True)
            store = Store(self.place.objects, now=utc_timestamp)
            for namespace, name in deployments:
                store.delete(Ref("FlashDeployment", namespace, name))

    def _answers(self) -> bool:
        try:
            wire.request(self.place.socket, {"do": "ping"}, timeout_seconds=5)
        except wire.DaemonUnavailableError:
            return False
        return True


def resolve(snapshot: Snapshot, name: str | None, namespace: str | None = None) -> dict[str, Any]:
    """The deployment that is meant: the named one, or the only one. Raises LookupError with what there is."""
    entries = [
        entry for entry in snapshot.deployments if namespace in (None, entry["manifest"]["metadata"]["namespace"])
    ]
    names = sorted(entry["manifest"]["metadata"]["name"] for entry in entries)
    found = [entry for entry in entries if name in (None, entry["manifest"]["metadata"]["name"])]
    if len(found) == 1:
        return found[0]
    if not names:
        raise LookupError("nothing is deployed here; start with: flash up -f MANIFEST")
    if not found:
        raise LookupError(f"no deployment is called {name!r}; there is: {', '.join(names)}")
    if name is None:
        raise LookupError(f"which one? name one of: {', '.join(names)}")
    raise LookupError(f"{name!r} exists in several namespaces: add --namespace")
