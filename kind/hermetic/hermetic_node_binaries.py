"""The programs that a cluster needs beside those of the control plane: the scheduler's, a node's, DNS and metrics.

Kubernetes' own come from the module of the control plane, the others from modules of their own, because their pins
clash; runc and nft come from the system, or from Debian's packages, unpacked into the cache and not installed.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hermetic_binaries import MODULE, Binaries, kubernetes
from hermetic_binaries import provide as provide_control_plane
from hermetic_build import GoModule, Progress, cache_root, emptied, exclusive, report_to_stderr
from hermetic_errors import BinariesUnavailable

KUBERNETES: Mapping[str, str] = {
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_CNI = "github.com/containernetworking/plugins/plugins"
RUNTIME: Mapping[str, str] = {
    "containerd": f"{_CONTAINERD}/containerd",
    "containerd-shim-runc-v2": f"{_CONTAINERD}/containerd-shim-runc-v2",
    "ctr": f"{_CONTAINERD}/ctr",
    "host-local": f"{_CNI}/ipam/host-local",
    "loopback": f"{_CNI}/main/loopback",
    "ptp": f"{_CNI}/main/ptp",
    "portmap": f"{_CNI}/meta/portmap",
    "pause": "./pause",
}
PLAIN = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
# Snapshotters of file systems that no node here has.
CONTAINERD = GoModule(
    folder=MODULE / "runtime",
    family="containerd",
    pin="github.com/containerd/containerd/v2",
    flags=(*PLAIN, "-tags=grpcnotrace,no_btrfs,no_devmapper,no_zfs"),
    sources=("pause/main.go",),
)
COREDNS = GoModule(
    folder=MODULE / "coredns",
    family="coredns",
    pin="github.com/coredns/coredns",
    flags=(*PLAIN, "-tags=grpcnotrace"),
    sources=("main.go",),
)
METRICS = GoModule(
    folder=MODULE / "metrics",
    family="metrics-server",
    pin="sigs.k8s.io/metrics-server",
    flags=PLAIN,
)
DEBIAN_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "runc": ("runc", "libseccomp2"),
    "nft": ("nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4"),
}


@dataclass(frozen=True)
class NodeBinaries:
    """Where the programs are."""

    control_plane: Binaries
    kube_scheduler: Path
    kubelet: Path
    kube_proxy: Path
    coredns: Path
    pause: Path
    runtime: Path
    """The folder of containerd, its shim, ctr and the CNI plugins."""
    runc: Path
    nft: Path

    @property
    def search_path(self) -> str:
        """PATH for what a node runs."""
        return os.pathsep.join(
            [*map(str, (self.runc.parent, self.nft.parent, self.runtime)), os.environ.get("PATH", os.defpath)]
        )


def provide_nodes(environment: Mapping[str, str] = os.environ, progress: Progress = report_to_stderr) -> NodeBinaries:
    """The programs: on PATH (runc, nft), cached, or fetched and built now.

    Raises BinariesUnavailable or BuildFailed.
    """
    tools = {name: _tool(name, environment, progress) for name in DEBIAN_PACKAGES}
    control_plane = provide_control_plane(environment, progress)
    ours = kubernetes().provide(KUBERNETES, environment=environment, progress=progress)
    runtime = CONTAINERD.provide(RUNTIME, environment=environment, progress=progress)
    dns = COREDNS.provide({"coredns": "."}, environment=environment, progress=progress)
    return NodeBinaries(
        control_plane=control_plane,
        kube_scheduler=ours["kube-scheduler"],
        kubelet=ours["kubelet"],
        kube_proxy=ours["kube-proxy"],
        coredns=dns["coredns"],
        pause=runtime["pause"],
        runtime=runtime["containerd"].parent,
        runc=tools["runc"],
        nft=tools["nft"],
    )


def provide_metrics_server(environment: Mapping[str, str] = os.environ, progress: Progress = report_to_stderr) -> Path:
    """metrics-server, which only some clusters have. Raises BinariesUnavailable or BuildFailed."""
    package = "sigs.k8s.io/metrics-server/cmd/metrics-server"
    return METRICS.provide({"metrics-server": package}, environment=environment, progress=progress)["metrics-server"]


def _tool(name: str, environment: Mapping[str, str], progress: Progress) -> Path:
    """The program `name`: the system's, or Debian's in the cache."""
    search = os.pathsep.join([environment.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if found := shutil.which(name, path=search):
        return Path(found)
    folder = cache_root(environment) / "debian" / name
    wrapper = folder / "bin" / name
    if not wrapper.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / ".lock", progress), emptied(folder.parent / "scratch") as scratch:
            if not wrapper.exists():
                _unpack(name, scratch, folder, progress)
    return wrapper


def _unpack(name: str, scratch: Path, folder: Path, progress: Progress) -> None:
    packages = DEBIAN_PACKAGES[name]
    remedy = f"Install it: apt-get install {packages[0]}"
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise BinariesUnavailable(f"there is no {name} on this machine, and no apt-get to fetch it with", remedy)
    progress(f"{name}: fetching Debian's {', '.join(packages)} (unpacked into the cache, not installed)")
    for attempt in ([apt, "download", *packages], [apt, "update"], [apt, "download", *packages]):
        # A fresh machine has no package lists yet: the first download fails then, and the second one does not.
        done = subprocess.run([*attempt, "-qq"], cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode == 0 and attempt[1] == "download":
            break
    else:
        raise BinariesUnavailable(f"Debian's package of {name} cannot be downloaded: {done.stderr.strip()}", remedy)
    root = scratch / "root"
    for package in scratch.glob("*.deb"):
        subprocess.run([dpkg, "--extract", str(package), str(root)], check=True)
    programs = (path for path in root.rglob(name) if path.parent.name in ("bin", "sbin"))
    program = next(path for path in programs if path.is_file() and not path.is_symlink())
    libraries = sorted({str(folder / path.parent.relative_to(root)) for path in root.rglob("*.so.*")})
    wrapper = root / "bin" / name
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH={":".join(libraries)} exec {folder / program.relative_to(root)} "$@"\n'
    )
    wrapper.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    root.replace(folder)  # atomic: what is in the cache is whole
