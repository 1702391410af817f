"""Which kernels this machine gets and how many threads: CPU features, affinity and cgroup quota, read at start-up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.kernels import _native

ISA_VARIABLE: Final = "FLASHPLANE_ISA"
"""Environment variable that forces an instruction set, e.g. to compare two on one machine."""
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class CpuInfo:
    """The kernel table and thread count an engine would use here."""

    isa: str
    supported: tuple[str, ...]
    """All the tables this CPU and build can run, fastest first."""
    threads: int


def cpu_info(*, isa: str | None = None, threads: int | None = None) -> CpuInfo:
    """What `CpuProvider` with the same arguments uses; raises ValueError for an unsupported isa or thread count."""
    supported = tuple(_native.supported_isas())
    chosen = choose_isa(isa, environment=os.environ, supported=supported)
    if threads is None:
        threads = default_threads()
    if threads < 1:
        raise ValueError(f"threads ({threads}) must be at least 1; leave it out to use the CPU quota")
    return CpuInfo(isa=chosen, supported=supported, threads=threads)


def choose_isa(isa: str | None, *, environment: Mapping[str, str], supported: tuple[str, ...]) -> str:
    """The asked-for instruction set (argument, then environment), otherwise the fastest."""
    source, wanted = ("isa", isa) if isa is not None else (ISA_VARIABLE, environment.get(ISA_VARIABLE))
    if not wanted:
        return supported[0]
    if wanted not in supported:
        raise ValueError(f"{source} ({wanted}) must be one this CPU supports: {', '.join(supported)}")
    return wanted


def default_threads() -> int:
    """CPUs we may run on, less if a cgroup quota grants less: a throttled thread stalls the ones waiting for it."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [int(cpus) for cpus in _quotas(_CGROUPS, _OWN_CGROUP)]
    return max(1, min([allowed, *quotas]))


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """CPUs granted to our cgroup and each of its parents, by `cpu.max` (v2) or `cpu.cfs_quota_us` (v1)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from (quota for level in _levels(root, path) for quota in _v2_quota(level))
        elif "cpu" in controllers.split(","):
            # inside a container the controller's folder may show our own cgroup as its root
            folder = root / controllers if (root / controllers).is_dir() else root / "cpu"
            yield from (quota for level in _levels(folder, path) for quota in _v1_quota(level))


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The cgroup's folder and those of its parents, the root's last."""
    folder = root / path.lstrip("/")
    return (level for level in [folder, *folder.parents] if level.is_relative_to(root))


def _v2_quota(level: Path) -> Iterator[float]:
    try:
        quota, period = (level / "cpu.max").read_text().split()
    except (OSError, ValueError):  # the root has none; other layouts have no limit we understand
        return
    if quota != "max":
        yield int(quota) / int(period)


def _v1_quota(level: Path) -> Iterator[float]:
    try:
        quota, period = (int((level / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):  # as above
        return
    if quota > 0:  # -1: no limit
        yield quota / period
