"""A Debian base image without a registry: mmdebstrap's minimal system with Python, from this machine's mirror."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from image_builders import Builder, BuildFailed, Missing, cache

SUITE: Final = "bookworm"
PACKAGES: Final = ("python3", "python3-venv", "libpython3.11", "ca-certificates")
"""libpython is what tritonserver's Python stub is linked with."""
_LEFT_OUT: Final = ("man", "locale", "doc", "info", "lintian")
_OPTIONS: Final = (
    "--variant=minbase",
    f"--include={','.join(PACKAGES)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)


def recipe() -> str:
    """A digest of what the base is made of, apart from the versions that the mirror has."""
    return hashlib.sha256("\n".join((SUITE, *_OPTIONS)).encode()).hexdigest()[:12]


def provide_base(builder: Builder, image: str) -> None:
    """Make the image, unless there is one of this recipe. Raises Missing or BuildFailed."""
    archive = cache() / "bases" / f"{SUITE}-{recipe()}.tar"
    if not archive.exists():
        if shutil.which("mmdebstrap") is None:
            raise Missing("mmdebstrap, which makes the base, is not here", "apt-get install mmdebstrap")
        archive.parent.mkdir(parents=True, exist_ok=True)
        print(f"==> {image}: a minimal Debian {SUITE} with Python, made once (a minute or more)", flush=True)
        partial = archive.with_suffix(".partial")
        # Files get the same time in every build of the same packages.
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
        command = ["mmdebstrap", "--quiet", "--format=tar", *_OPTIONS, SUITE, str(partial), *_sources()]
        if subprocess.run(command, check=False, env=environment, stdout=sys.stderr).returncode != 0:
            raise BuildFailed("mmdebstrap has said why")
        partial.rename(archive)
    builder.import_base(archive, image)


def _sources() -> list[str]:
    """This machine's own mirror of Debian, where it is one of this suite; else mmdebstrap's default."""
    own = Path("/etc/apt/sources.list.d/debian.sources")
    return [str(own)] if own.is_file() and SUITE in own.read_text() else []
