"""Programs built once from a pinned Go module into a cache outside the work tree.

Knows Go, go.mod and a cache folder. Does not know what the programs are for.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermetic_errors import BinariesUnavailable, BuildFailed

HEARTBEAT_SECONDS = 30.0

Progress = Callable[[str], None]


def report_to_stderr(line: str) -> None:
    """One line of progress; standard output stays free for what a shell evaluates."""
    print(line, file=sys.stderr, flush=True)


def cache_root(environment: Mapping[str, str]) -> Path:
    """Where everything is kept that can be had again."""
    root = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".cache")
    return Path(root) / "flashplane"


def pinned_version(folder: Path, pin: str) -> str:
    """The version of the module `pin` that the go.mod in `folder` requires."""
    line = rf"^(?:require)?\s*{re.escape(pin)} (v\d+\.\d+\.\d+)$"
    match = re.search(line, (folder / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildFailed(f"{folder / 'go.mod'} requires no released version of {pin}")
    return match[1]


@dataclass(frozen=True)
class GoModule:
    """A folder with go.mod and go.sum, and how its programs are built."""

    folder: Path
    family: str
    """The cache's folder for all versions."""
    pin: str | None
    """The module whose version names the build; None = it is all ours."""
    flags: tuple[str, ...]
    sources: tuple[str, ...] = ()
    """Files of the folder that are compiled."""

    def version(self) -> str:
        """The version of `pin`, such as v1.34.10."""
        return "ours" if self.pin is None else pinned_version(self.folder, self.pin)

    def cache_directory(self, environment: Mapping[str, str]) -> Path:
        """The folder for exactly these pins, flags and platform. Go's own version is left out on purpose:
        what was built once stays usable on a machine whose Go was updated or removed."""
        digest = hashlib.sha256(repr((list(self.flags), platform.system(), platform.machine())).encode())
        for name in ("go.mod", "go.sum", *self.sources):
            digest.update((self.folder / name).read_bytes())
        return cache_root(environment) / self.family / f"{self.version()}-{digest.hexdigest()[:12]}"

    def provide(
        self,
        packages: Mapping[str, str],
        *,
        environment: Mapping[str, str] = os.environ,
        progress: Progress = report_to_stderr,
        remedy: str = "Install Go 1.24 or newer",
    ) -> dict[str, Path]:
        """The programs of `packages`, by name: cached, or built now.

        Raises BinariesUnavailable when this machine has no Go and the cache lacks a program, BuildFailed when the
        build does not succeed.
        """
        cache = self.cache_directory(environment)
        if any(not (cache / name).exists() for name in packages):
            go = shutil.which("go", path=environment.get("PATH", os.defpath))
            if go is None:
                built = f"{self.family.capitalize()} {self.version()} is not built yet ({cache})"
                raise BinariesUnavailable(f"{built} and there is no Go to build it with", remedy)
            self._build(go, packages, cache, environment, progress)
        return {name: cache / name for name in packages}

    def _build(
        self, go: str, packages: Mapping[str, str], cache: Path, environment: Mapping[str, str], progress: Progress
    ) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache / ".lock", progress) as lock, emptied(cache / "scratch") as scratch:
            missing = [name for name in packages if not (cache / name).exists()]
            for number, name in enumerate(missing, start=1):
                started = time.monotonic()
                label = f"[{number}/{len(missing)}] {name}"
                progress(f"{label}: building")
                command = [go, "build", *self.flags, "-o", str(scratch / name), packages[name]]
                log = scratch / f"{name}.log"
                with _running(command, self.folder, scratch, log, environment, lock) as build:
                    while not _ends(build, HEARTBEAT_SECONDS):
                        progress(f"{label}: still building, {time.monotonic() - started:.0f} s")
                if build.returncode != 0:
                    said = log.read_text(errors="replace").splitlines()[-20:]
                    raise BuildFailed("\n".join([f"go build of {name} ended with {build.returncode}:", *said]))
                (scratch / name).replace(cache / name)  # atomic: a name in the cache is a whole program
                progress(f"{label}: built in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def exclusive(path: Path, progress: Progress) -> Iterator[int]:
    """Holds the lock file `path` and gives its descriptor."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another build in {path.parent}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, also when a killed build left files in it, and none afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, scratch: Path, log: Path, environment: Mapping[str, str], lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A running build; it is killed when the block is left by an exception."""
    with log.open("wb") as output:
        build = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "GOTMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=output,
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
