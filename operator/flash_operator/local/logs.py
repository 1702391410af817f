"""Log files that programs append to: their ends, and a cap on their size. Knows no processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LARGEST_BYTES: Final = 8 * 1024**2
_TAIL_BYTES: Final = 16 * 1024
_LONGEST_LINE: Final = 300


def end_of_log(path: Path) -> int:
    """Where the next output will stand."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_line(path: Path, start: int = 0) -> str:
    """The last line with text in it that was written after `start`, cut to a length that fits a message."""
    lines = tail(path, 1, start)
    return lines[0].strip()[:_LONGEST_LINE] if lines else ""


def tail(path: Path, count: int, start: int = 0) -> list[str]:
    """The last lines with text in them, at most `count`, of what was written after `start`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # After a rotation the file is shorter than it was: then all of it is new.
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def rotate(path: Path, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Move the content of a log that has grown too large to `<name>.1`, so that at most two such files exist.

    The program keeps its descriptor, opened for appending, so it goes on at the start of the emptied file; a line
    written between copy and cut is lost.
    """
    if end_of_log(path) <= largest_bytes:
        return False
    old = path.with_name(f"{path.name}.1")
    shutil.copyfile(path, old)
    old.chmod(0o600)
    os.truncate(path, 0)
    return True


def read_new(path: Path, start: int) -> tuple[list[str], int]:
    """Whole lines written since `start`, and where to go on."""
    size = end_of_log(path)
    if size < start:
        start = 0
    if size == start:
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), start + len(whole)


def log_files(folder: Path) -> Iterator[Path]:
    """Every current log below a folder."""
    return (path for path in sorted(folder.rglob("*.log")) if not path.name.endswith(".probe.log"))


def forget(folder: Path, pod_prefix: str, *, keep: int) -> None:
    """Remove logs of pods whose name begins so, all but the `keep` youngest files."""
    found = sorted(folder.glob(f"{pod_prefix}*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        path.unlink(missing_ok=True)
