"""`flashplane-operator` as a real process under its own ServiceAccount, and waiting for what it does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from control_plane import ControlPlane

POLL_SECONDS = 0.1
DEADLINE_SECONDS = 60.0
LEASE_SECONDS = 4.0
ROOT = Path(__file__).parents[2]

T = TypeVar("T")


def eventually(what: str, look: Callable[[], T], *, seconds: float = DEADLINE_SECONDS) -> T:
    """The first true value of `look`. Fails with the last false one."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}; last seen: {seen!r}"
        time.sleep(POLL_SECONDS)
    return seen


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Kubectl:
    """kubectl in one namespace, with decoded answers."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane = control_plane
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._control_plane.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """The object or list, None when it is not there."""
        text = self("get", *arguments, "-o", "json", "--ignore-not-found", "--show-managed-fields")
        return json.loads(text) if text.strip() else None

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        return list((self.get(*arguments) or {"items": []})["items"])


class OperatorProcess:
    """One replica. A context manager: leaving it stops it, so that the next one need not wait for the Lease."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        namespace: str | None,
        port: int | None = None,
        options: Sequence[str] = (),
        source: Path = ROOT / "operator",
    ) -> None:
        """`source`: the folder with its packages; those of another release lie elsewhere."""
        self.log = log
        self._source = source
        self.port = port if port is not None else free_port()
        self._command = [
            *(sys.executable, "-m", "flash_operator", "--kubeconfig", str(kubeconfig)),
            *(("--namespace", namespace) if namespace is not None else ()),
            *("--metrics-host", "127.0.0.1", "--metrics-port", str(self.port)),
            *("--lease-seconds", str(LEASE_SECONDS), "--verbose", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(self._source), "PYTHONWARNINGS": "default"}
        environment.pop("KUBECONFIG", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """As a node failure does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As a rollout does. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; 0 while it does not listen."""
        assert self.process.poll() is None, f"the operator has ended: {self.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.page("/metrics")[1].splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(map(float, values))

    def wait_until_leading(self) -> None:
        eventually(f"the operator leads; log: {self.log}", lambda: self.metric("flashplane_leading") == 1)
