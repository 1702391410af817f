"""The folder of one running engine, and sweeping up after engines that were killed. Knows nothing of tritonserver.

It lies in shared memory, next to the regions the server keeps there under the same name, so that it is writable in a
read-only container and so that one look finds everything a killed engine left. A lock on a file in it, which the kernel
drops with the process, tells a living engine from a dead one, also across containers that share the folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
_PREFIX: Final = "flash-engine-"
_LOCK: Final = "lock"


@dataclass(frozen=True)
class RunDir:
    """A folder that exists as long as its engine."""

    path: Path

    @property
    def shm_prefix(self) -> str:
        """What names of the engine's shared memory regions begin with."""
        return f"{self.path.name}-"


@contextmanager
def run_dir(parent: Path = SHARED_MEMORY) -> Iterator[RunDir]:
    """A fresh folder, removed at the end together with the engine's shared memory regions."""
    sweep(parent)
    token = secrets.token_hex(6)
    # Locked before it has its name, so that no sweep takes it for a dead one.
    nameless = parent / f".{_PREFIX}{token}"
    nameless.mkdir(mode=0o700)
    lock = os.open(nameless / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = nameless.rename(parent / f"{_PREFIX}{token}")
        yield RunDir(path)
    finally:
        os.close(lock)
        sweep(parent)


def sweep(parent: Path = SHARED_MEMORY) -> list[Path]:
    """Remove what dead engines of this user left, and return it."""
    removed: list[Path] = []
    for folder in parent.glob(f"{_PREFIX}*/"):
        if not _is_abandoned(folder):
            continue
        for region in parent.glob(f"{folder.name}-*"):
            region.unlink(missing_ok=True)
            removed.append(region)
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # another user's, or gone a moment ago
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
