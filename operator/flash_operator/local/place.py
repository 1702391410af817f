"""Where local mode keeps its things: one private directory. Knows paths and nothing of what is written to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_api import names

ENV_STATE: Final = "FLASHPLANE_STATE"
"""Folder for what is worth keeping between deployments: tritonserver, packed models."""
ENV_PROGRESS: Final = "FLASHPLANE_PROGRESS"
"""File that a long step of a container (a download, packing weights) reports its progress to."""
ENV_OWNER: Final = "FLASHPLANE_LOCAL"
"""Set in every process we start, to the state directory: how leftovers of a killed daemon are recognised."""


@dataclass(frozen=True)
class Place:
    """The paths of one state directory."""

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def pods(self) -> Path:
        return self.root / "pods"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts"

    @property
    def lock(self) -> Path:
        return self.root / "daemon.lock"

    @property
    def socket(self) -> Path:
        return self.root / "daemon.sock"

    @property
    def daemon_log(self) -> Path:
        return self.root / "daemon.log"

    def pod(self, namespace: str, name: str) -> Path:
        return self.pods / namespace / name

    def log(self, namespace: str, pod: str, container: str) -> Path:
        return self.logs / namespace / f"{pod}.{container}.log"

    def create(self) -> None:
        """The directory, readable by its owner only: prompts pass through its processes, keys lie in its files."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.objects, self.pods, self.logs):
            folder.mkdir(exist_ok=True, mode=0o700)


def state_dir(env: Mapping[str, str]) -> Path:
    """`$FLASHPLANE_STATE`, or `flashplane` in the user's state folder as the XDG base directories say."""
    if named := env.get(ENV_STATE):
        return Path(named).expanduser().resolve()
    base = env.get("XDG_STATE_HOME") or os.path.join(env.get("HOME", os.path.expanduser("~")), ".local", "state")
    return Path(base) / "flashplane"


def cache_dir(env: Mapping[str, str]) -> Path:
    """`$FLASHPLANE_CACHE`, or `flashplane` in the user's cache folder."""
    if named := env.get(names.ENV_CACHE):
        return Path(named).expanduser().resolve()
    base = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME", os.path.expanduser("~")), ".cache")
    return Path(base) / "flashplane"
