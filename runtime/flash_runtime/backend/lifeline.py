"""The model process's end of the lifeline (see supervise): who it is, whether it is busy, why it ends. Never blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flash_runtime.backend.command import ENV_LIFELINE

FILE_BUSY: Final = "busy"
"""Beside the pipe; the model process holds a lock on it while streams are open."""

FILE_STOPPING: Final = "stopping"
"""Beside the pipe; there once the supervisor was asked to end; a model hears of it only after its last stream."""


class Lifeline:
    """Held open as long as the process lives; the kernel closes it at the end, whatever the end is."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get(ENV_LIFELINE)
        # Without a supervisor (tritonserver started by hand) there is nobody to tell.
        self._pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC) if path else None
        busy = Path(path).with_name(FILE_BUSY) if path else None
        self._stopping = Path(path).with_name(FILE_STOPPING) if path else None
        self._busy = os.open(busy, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if busy else None
        self.say(str(os.getpid()))

    def say(self, line: str) -> None:
        """One line for the supervisor; the last one is repeated as the reason of an unexpected end."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                os.write(self._pipe, f"{' '.join(line.split())[:1000]}\n".encode())

    def set_busy(self, busy: bool) -> None:
        """Whether streams are open: what the supervisor looks at when the server does not want to end."""
        if self._busy is not None:
            fcntl.flock(self._busy, fcntl.LOCK_SH if busy else fcntl.LOCK_UN)

    def is_stopping(self) -> bool:
        """Whether the server was asked to end: what is open for as long as it lives is to be closed now."""
        return self._stopping is not None and self._stopping.exists()
