"""The programs that turn a Dockerfile into an image. Knows their commands, and nothing of what is built.

Each gets pip's settings of this machine (its index, its certificates) as build secrets, so that they are in no layer.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_PASSED_ON: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")


class BuildFailed(Exception):
    """A builder ended with an error; it has said why itself."""


class Missing(Exception):
    """What is needed is not on this machine."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")


class Builder(ABC):
    """One of the three."""

    name: ClassVar[str]

    @property
    def command(self) -> list[str]:
        """The program with its global options."""
        return [self.name]

    @property
    def version(self) -> str:
        """Its own words."""
        return _said([self.name, "--version"]) or self.name

    @abstractmethod
    def works(self) -> bool:
        """Whether it can build here, as far as that can be told without building."""

    def size_bytes(self, image: str) -> int:
        """Of all layers, unpacked."""
        return int(_said([self.name, "image", "inspect", "--format", "{{.Size}}", image]) or 0)

    @abstractmethod
    def save(self, image: str, archive: Path) -> None:
        """Write a docker archive with the image under its name."""

    @abstractmethod
    def build_options(self) -> list[str]:
        """What makes two builds equal, in this program's words."""

    def build(self, role: str, image: str, *, base: str, version: str, revision: str) -> None:
        """Build the role's Dockerfile. Raises BuildFailed."""
        with tempfile.TemporaryDirectory() as scratch:
            self.run(
                "build",
                *self.build_options(),
                *_secrets(Path(scratch)),
                f"--build-arg=BASE={base}",
                f"--build-arg=VERSION={version}",
                f"--build-arg=REVISION={revision}",
                f"--file={ROOT / 'images' / f'{role}.Dockerfile'}",
                f"--tag={image}",
                str(ROOT),
            )

    def run(self, *arguments: str) -> None:
        """Raises BuildFailed."""
        done = subprocess.run([*self.command, *arguments], check=False, env=self.environment(), stdout=sys.stderr)
        if done.returncode != 0:
            raise BuildFailed(f"{self.name} {arguments[0]} ended with status {done.returncode}")

    def import_base(self, archive: Path, image: str) -> None:
        """Make an image of one layer out of a root file system."""
        self.run("import", str(archive), image)

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


class Docker(Builder):
    name = "docker"

    def works(self) -> bool:
        return _said(["docker", "version", "--format", "{{.Server.Version}}"]) != ""

    def build_options(self) -> list[str]:
        return ["--build-arg=SOURCE_DATE_EPOCH=0"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_BUILDKIT": "1"}

    def save(self, image: str, archive: Path) -> None:
        self.run("save", "--output", str(archive), image)


class Podman(Builder):
    name = "podman"

    def works(self) -> bool:
        return _said(["podman", "info", "--format", "{{.Version.Version}}"]) != ""

    def build_options(self) -> list[str]:
        return ["--layers", "--timestamp=0"]

    def save(self, image: str, archive: Path) -> None:
        self.run("save", "--format=docker-archive", "--output", str(archive), image)


class Buildah(Builder):
    """Needs no daemon, no registry and no container runtime: build steps run in a chroot. Its store is in our cache."""

    name = "buildah"

    @property
    def command(self) -> list[str]:
        store = cache() / "buildah"
        return ["buildah", f"--root={store / 'root'}", f"--runroot={store / 'run'}", "--storage-driver=overlay"]

    def works(self) -> bool:
        return shutil.which("buildah") is not None

    def build_options(self) -> list[str]:
        return ["--isolation=chroot", "--layers", "--timestamp=0", "--pull-never", "--format=docker", "--quiet"]

    def import_base(self, archive: Path, image: str) -> None:
        found = subprocess.run([*self.command, "inspect", "--type=image", image], capture_output=True, check=False)
        if found.returncode == 0:
            return
        with tempfile.TemporaryDirectory() as context:
            (Path(context) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
            shutil.copy(archive, Path(context) / "base.tar")
            self.run("build", *self.build_options(), f"--tag={image}", context)

    def save(self, image: str, archive: Path) -> None:
        self.run("push", "--quiet", image, f"docker-archive:{archive}:{image}")


BUILDERS: Final[Mapping[str, type[Builder]]] = {builder.name: builder for builder in (Docker, Podman, Buildah)}


def find_builder(wanted: str | None) -> Builder:
    """The one that is asked for, or the first that works. Raises Missing."""
    for name in [wanted] if wanted else BUILDERS:
        builder = BUILDERS[name]()
        if builder.works():
            return builder
    missing = f"{wanted} does not work here" if wanted else "neither docker nor podman nor buildah works here"
    raise Missing(missing, "start Docker, or on Debian: apt-get install buildah mmdebstrap")


def cache() -> Path:
    """Where this project keeps what it made for images."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "flashplane" / "images"


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _secrets(folder: Path) -> list[str]:
    """pip's settings of this machine that mean the same inside a build, as files that only the build's steps see."""
    settings = pip_settings(_said([sys.executable, "-m", "pip", "config", "list"]))
    certificates = settings.pop("cert", None)
    text = ["[global]", *(f"{name} = {value}" for name, value in settings.items() if name in _PASSED_ON)]
    if certificates is not None and Path(certificates).is_file():
        shutil.copy(certificates, folder / "ca.pem")
        text.append("cert = /run/secrets/ca.pem")
    else:
        (folder / "ca.pem").touch()
    (folder / "pip.conf").write_text("\n".join([*text, ""]))
    return [f"--secret=id={name},src={folder / name}" for name in ("pip.conf", "ca.pem")]


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip config list` says, by option; the environment wins over files, as it does for pip."""
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    return found


def main() -> int:
    """Say which builder works here; exit status 2 = none."""
    try:
        print(find_builder(None).version)
    except Missing as missing:
        print(f"images: {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
