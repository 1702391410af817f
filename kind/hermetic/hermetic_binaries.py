"""The programs of a control plane, built once from pinned Go modules into a cache outside the work tree.

Knows Go, go.mod and a cache folder. Does not know how the programs are started or what they talk about.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hermetic_errors import BinariesUnavailable, BuildFailed

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
HEARTBEAT_SECONDS = 30.0

Progress = Callable[[str], None]


def report_to_stderr(line: str) -> None:
    """One line of progress; standard output stays free for what a shell evaluates."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Binaries:
    """Where the programs are."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def pinned_version() -> str:
    """The version of Kubernetes that go.mod pins, such as v1.34.10."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v\d+\.\d+\.\d+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildFailed(f"{MODULE / 'go.mod'} requires no released version of k8s.io/kubernetes")
    return match[1]


def _build_flags(version: str) -> list[str]:
    # Without these the programs call themselves v0.0.0-master+$Format:%H$; the API server and kubectl compare
    # versions with each other and with stored objects, so they get the true one.
    major, minor = version.removeprefix("v").split(".")[:2]
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "", "gitTreeState": "clean"}
    version_packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = " ".join(f"-X {package}.{name}={value}" for package in version_packages for name, value in facts.items())
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-tags={TAGS}", f"-ldflags=-s -w {settings}"]


def cache_directory(environment: Mapping[str, str]) -> Path:
    """The folder for exactly these pins, flags and platform. Go's own version is left out on purpose:
    what was built once stays usable on a machine whose Go was updated or removed."""
    version = pinned_version()
    digest = hashlib.sha256(repr((_build_flags(version), platform.system(), platform.machine())).encode())
    for name in ("go.mod", "go.sum", "etcd/main.go"):
        digest.update((MODULE / name).read_bytes())
    root = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".cache")
    return Path(root) / "flashplane" / "kubernetes" / f"{version}-{digest.hexdigest()[:12]}"


def provide(environment: Mapping[str, str] = os.environ, progress: Progress = report_to_stderr) -> Binaries:
    """The programs: given by KUBEBUILDER_ASSETS, else cached, else built now (minutes, once).

    Raises BinariesUnavailable when this machine has no Go and the cache lacks a program, BuildFailed when
    the build does not succeed.
    """
    paths = _given(environment)
    missing = [name for name in PACKAGES if name not in paths]
    cache = cache_directory(environment)
    if any(not (cache / name).exists() for name in missing):
        _build(missing, cache, environment, progress)
    paths |= {name: cache / name for name in missing}
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


def _build(names: list[str], cache: Path, environment: Mapping[str, str], progress: Progress) -> None:
    go = shutil.which("go", path=environment.get("PATH", os.defpath))
    if go is None:
        raise BinariesUnavailable(
            f"Kubernetes {pinned_version()} is not built yet ({cache}) and there is no Go to build it with",
            "Install Go 1.24 or newer, or set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver",
        )
    cache.mkdir(parents=True, exist_ok=True)
    with _exclusive(cache / ".lock", progress) as lock, _emptied(cache / "scratch") as scratch:
        for number, name in enumerate(names, start=1):
            if (cache / name).exists():
                continue
            started = time.monotonic()
            label = f"[{number}/{len(names)}] {name}"
            progress(f"{label}: building")
            with _go_build(go, name, scratch, environment, lock) as build:
                while not _ends(build, HEARTBEAT_SECONDS):
                    progress(f"{label}: still building, {time.monotonic() - started:.0f} s")
            if build.returncode != 0:
                said = (scratch / f"{name}.log").read_text(errors="replace").splitlines()[-20:]
                raise BuildFailed("\n".join([f"go build of {name} ended with {build.returncode}:", *said]))
            (scratch / name).replace(cache / name)  # atomic: a name in the cache is a whole program
            progress(f"{label}: built in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[int]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another build in {path.parent}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, also when a killed build left files in it, and none afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _go_build(
    go: str, name: str, scratch: Path, environment: Mapping[str, str], lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A running build of one program into `scratch`; it is killed when the block is left by an exception."""
    with (scratch / f"{name}.log").open("wb") as log:
        build = subprocess.Popen(
            [go, "build", *_build_flags(pinned_version()), "-o", str(scratch / name), PACKAGES[name]],
            cwd=MODULE,
            env={**environment, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "GOTMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            # Go holds the lock too: if this process is killed, the next one waits for the orphaned build.
            pass_fds=(lock,),
        )
    try:
        yield build
    except BaseException:
        os.killpg(build.pid, signal.SIGKILL)  # go and its compilers
        build.wait()
        raise


def _ends(process: subprocess.Popen[bytes], within_seconds: float) -> bool:
    try:
        process.wait(within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
