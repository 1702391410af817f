"""Fixture `stack`: a deployment served on this machine by `flash up`, for tests of the whole of local mode.

It has a state directory of its own and a free port, and after the last test it is checked that nothing is left of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flash_operator.local.listeners import free_ports
from flash_operator.local.place import ENV_OWNER, ENV_STATE
from flash_operator.local.processes import marked

API_KEY = "sk-local-stack-test"
UP_SECONDS = 240
POLL_SECONDS = 0.05

_MANIFEST = """\
apiVersion: v1
kind: Secret
metadata:
  name: {name}-keys
stringData:
  api-keys: |
    # the key of the tests
    {api_key}
---
apiVersion: flashplane.dev/v1alpha1
kind: FlashDeployment
metadata:
  name: {name}
spec:
  variant: Lite
  model:
    source: {source}
  engine:
    replicas: 1
    maxConcurrentRequests: {concurrency}
    resources:
      memory: 2Gi
  gateway:
    auth:
      apiKeysSecretRef:
        name: {name}-keys
  endpoint:
    port: {port}
"""


@dataclass(frozen=True)
class Stack:
    """One state directory, its `flash` command and the deployment in it."""

    state: Path
    manifest: Path
    port: int
    model: str
    api_key: str = API_KEY

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def write(self, *, concurrency: int = 16, source: str = "builtin://smollm2-135m-instruct") -> None:
        """The manifest, with what a test wants to change."""
        self.manifest.write_text(
            _MANIFEST.format(
                name=self.model, api_key=self.api_key, source=source, concurrency=concurrency, port=self.port
            )
        )

    def flash(self, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command, as a person would."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "flash"), *arguments],
            env={**os.environ, ENV_STATE: str(self.state), **env},
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
        )
        if check:
            assert done.returncode == 0, f"flash {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that a test looks at while it runs."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "flash"), *arguments],
            env={**os.environ, ENV_STATE: str(self.state)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def up(self, *, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        return self.flash("up", "-f", str(self.manifest), check=check, **env)

    def status(self) -> dict[str, Any]:
        """What `flash status --json` says of the deployment."""
        entry: dict[str, Any] = json.loads(self.flash("status", self.model, "--json").stdout)["deployments"][0]
        return entry

    def conditions(self) -> dict[str, dict[str, Any]]:
        return {entry["type"]: entry for entry in self.status()["manifest"]["status"]["conditions"]}

    def process(self, component: str) -> dict[str, Any]:
        """The serving process of a component."""
        rows = [row for row in self.status()["processes"] if row["component"] == component and not row["init"]]
        return rows[-1]

    def until(self, holds: Callable[[], bool], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, json.dumps(self.status(), indent=1)
            time.sleep(POLL_SECONDS)


@contextmanager
def local_stack(name: str) -> Iterator[Stack]:
    """A state directory with a manifest in it; nothing runs yet, and nothing is left at the end."""
    with tempfile.TemporaryDirectory(prefix="flash-stack-") as folder:
        state = Path(folder) / "state"
        stack = Stack(state, Path(folder) / "flash.yaml", free_ports(1, ())[0], name)
        stack.write()
        try:
            yield stack
        finally:
            stack.flash("down", "--all")
        assert marked(ENV_OWNER, str(state)) == ()
        assert not (state / "daemon.sock").exists()
        assert [path for path in (state / "pods").rglob("*") if path.is_file()] == []
        assert _shared_memory_of(state) == []


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A deployment that serves: `base_url`, `api_key` and `model` are all that a client needs."""
    with local_stack("chat") as started:
        started.up()
        yield started


def _shared_memory_of(state: Path) -> list[Path]:
    """Folders of engines whose configuration lies in a state directory; other tests have engines too."""
    folders = Path("/dev/shm").glob("flash-engine-*/")
    return [folder for folder in folders if any(str(state) in _text(file) for file in folder.rglob("*.*"))]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""  # it went while we looked
