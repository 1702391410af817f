"""The cache on disk: where fetched and packed files lie, who may write them now, and known digests.

Files appear under their final name only when complete; work in progress lies in a folder of its own that the next
holder of the same lock clears. Knows no sources and no formats, and imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from flash_api.names import ENV_CACHE
from flash_runtime.model.errors import StorageError

_CHUNK_BYTES: Final = 1 << 22
FOLDER_FILES: Final = ("*.safetensors", "*.json", "*.jinja", "README.md")
"""What a Hugging Face folder's packed form depends on."""


def default_root(environment: Mapping[str, str]) -> Path:
    """`$FLASHPLANE_CACHE`, else `flashplane` in the user's cache folder."""
    if chosen := environment.get(ENV_CACHE):
        return Path(chosen).expanduser()
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "flashplane"


class Cache:
    """One cache folder; made when first used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, *parts: str) -> Path:
        """A place in the cache, its folder made."""
        path = self.root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cache {self.root}: {error.strerror}; set {ENV_CACHE} to a writable folder") from error
        return path

    @contextlib.contextmanager
    def exclusive(self, name: str, *, on_wait: Callable[[], None]) -> Iterator[Path]:
        """Hold the lock `name` among all processes; yields an empty folder for work in progress, cleared afterwards.

        The lock belongs to the open file, so a killed holder frees it.
        """
        try:
            descriptor = os.open(self.path("locks", f"{name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cache {self.root}: {error.strerror}; set {ENV_CACHE} to a writable folder") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            work = self.path("work", name)
            shutil.rmtree(work, ignore_errors=True)  # left by a holder that was killed
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
        finally:
            os.close(descriptor)

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered as long as the file is the same by inode, size and times."""
        stat = path.stat()
        identity = [str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        note = self.path("digests", hashlib.sha256(os.fsencode(path.resolve())).hexdigest() + ".json")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no note, or not one of ours: count again
            known = json.loads(note.read_bytes())
            if known["file"] == identity:
                return str(known["sha256"])
        sha256 = file_sha256(path)
        temporary = note.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"file": identity, "sha256": sha256}), encoding="utf-8")
        temporary.replace(note)
        return sha256


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def storage_error(error: OSError, folders: str) -> StorageError:
    """`folders` are named where the error itself names no file (a failed write)."""
    where = error.filename2 or error.filename or folders
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{where}: the disk is full; free space there or point {ENV_CACHE} elsewhere")
    return StorageError(f"{where}: {error.strerror or error}")


def place(source: Path, target: Path) -> None:
    """Put a cached file at `target` at once: a hard link, or a copy where the target lies on another file system."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES):
                raise
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
