"""A wheel from the package index, fetched by pip and never installed.

pip is the way to the index, so its mirrors, proxies and credentials apply. Knows nothing of what is in the wheel, and
checks nothing: callers pin digests. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.2

OnBytes = Callable[[int], None]


class PipFailed(Exception):
    """pip could not fetch the wheel. `output` is all that it said; the message is its reason in one line."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


def download(requirement: str, folder: Path, on_bytes: OnBytes) -> None:
    """Put the requirement's wheel into the folder, telling the bytes so far.

    `folder` must exist; its parent is used for temporary files. Raises PipFailed.
    """
    if importlib.util.find_spec("pip") is None:
        raise PipFailed(f"this Python has no pip; run `{sys.executable} -m ensurepip`")
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
        said = log.read_text(encoding="utf-8", errors="replace")
        raise PipFailed(reason(said), said)


def reason(output: str) -> str:
    """pip's last error line, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return ([line for line in errors if line != "Exception:"] or lines or ["no output"])[-1]


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
