"""The programs of a control plane: given, cached, or built from the Go modules that go.mod pins.

Knows which programs there are. Does not know how they are started or what they talk about.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import hermetic_build
from hermetic_build import GoModule, Progress, report_to_stderr
from hermetic_errors import BinariesUnavailable

MODULE = Path(__file__).resolve().parent
# In this order the long build, the API server's, comes early and the next two find most packages compiled.
PACKAGES: Mapping[str, str] = {
    "etcd": "./etcd",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
# The tags of upstream's own release builds, less selinux, which only the kubelet needs.
TAGS = "grpcnotrace,notest"
PIN = "k8s.io/kubernetes"


@dataclass(frozen=True)
class Binaries:
    """Where the programs are."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def pinned_version() -> str:
    """The version of Kubernetes that go.mod pins, such as v1.34.10."""
    return hermetic_build.pinned_version(MODULE, PIN)


def kubernetes() -> GoModule:
    """The module that all programs of Kubernetes, and etcd, are built from."""
    version = pinned_version()
    # Without these the programs call themselves v0.0.0-master+$Format:%H$; the API server and kubectl compare
    # versions with each other and with stored objects, so they get the true one.
    major, minor = version.removeprefix("v").split(".")[:2]
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "", "gitTreeState": "clean"}
    version_packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = " ".join(f"-X {package}.{name}={value}" for package in version_packages for name, value in facts.items())
    return GoModule(
        folder=MODULE,
        family="kubernetes",
        pin=PIN,
        flags=("-mod=readonly", "-trimpath", "-buildvcs=false", f"-tags={TAGS}", f"-ldflags=-s -w {settings}"),
        sources=("etcd/main.go",),
    )


def cache_directory(environment: Mapping[str, str]) -> Path:
    """The folder for exactly these pins, flags and platform."""
    return kubernetes().cache_directory(environment)


def provide(environment: Mapping[str, str] = os.environ, progress: Progress = report_to_stderr) -> Binaries:
    """The programs: given by KUBEBUILDER_ASSETS, else cached, else built now (minutes, once).

    Raises BinariesUnavailable when this machine has no Go and the cache lacks a program, BuildFailed when
    the build does not succeed.
    """
    paths = _given(environment)
    missing = {name: package for name, package in PACKAGES.items() if name not in paths}
    paths |= kubernetes().provide(
        missing,
        environment=environment,
        progress=progress,
        remedy="Install Go 1.24 or newer, or set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver",
    )
    return Binaries(**{name.replace("-", "_"): path for name, path in paths.items()})


def _given(environment: Mapping[str, str]) -> dict[str, Path]:
    folder = environment.get("KUBEBUILDER_ASSETS")
    if not folder:
        return {}
    given = {name: Path(folder).resolve() / name for name in PACKAGES if (Path(folder) / name).is_file()}
    # The store and its server come as a pair; controller-manager and kubectl are often not in such a folder.
    for name in ("etcd", "kube-apiserver"):
        if name not in given:
            raise BinariesUnavailable(
                f"KUBEBUILDER_ASSETS ({folder}) has no {name}",
                "Point it at a folder with etcd and kube-apiserver, or unset it to build them",
            )
    return given
