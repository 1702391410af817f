"""What a pod is on this machine: processes, files and ports, as plain values. Knows no Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flash_operator.local.place import Place


@dataclass(frozen=True)
class Probe:
    """One way to ask a container how it is."""

    http: str | None = None
    """A whole URL."""
    shared: bool = False
    """The URL's port is a socket that other pods accept on too, so the answer alone does not tell who gave it."""
    command: tuple[str, ...] | None = None
    period_seconds: float = 10
    timeout_seconds: float = 1
    failure_threshold: int = 3
    initial_delay_seconds: float = 0


@dataclass(frozen=True)
class ContainerSpec:
    """One process to run."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    progress: Path
    takes_sockets: bool = False
    """Whether the sockets of the pod's Service are handed over (systemd's LISTEN_FDS)."""
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None


@dataclass(frozen=True)
class File:
    """A file to write before the pod starts."""

    path: Path
    content: bytes


@dataclass(frozen=True)
class PodSpec:
    """Everything needed to run one pod."""

    name: str
    namespace: str
    component: str
    labels: Mapping[str, str]
    directory: Path
    folders: tuple[Path, ...]
    files: tuple[File, ...]
    init: tuple[ContainerSpec, ...]
    containers: tuple[ContainerSpec, ...]
    ports: Mapping[int, int]
    """Container port → port on the loopback interface."""
    port_names: Mapping[str, int]
    """Name of a container port → container port."""
    grace_seconds: float


@dataclass(frozen=True)
class Machine:
    """What a pod finds here instead of a container image."""

    place: Place
    cache: Path
    bin: Path
    """Where this installation's own programs are."""
    python: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """What every process inherits."""
