"""One operator as a process: started, measured from outside, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

STOP_SECONDS: Final = 20.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class OperatorFailed(Exception):
    """The operator has ended by itself."""


class Process:
    """A context manager: leaving it stops the process."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(list(command), stdout=output, stderr=output, env=dict(environment))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def require_running(self) -> None:
        """Raises OperatorFailed with the end of the log."""
        if self._process.poll() is not None:
            raise OperatorFailed(f"exit code {self._process.returncode}; {self._log.read_text()[-2000:]}")

    @property
    def rss_peak_bytes(self) -> int:
        """The most memory that it ever held."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise OperatorFailed("the process has ended")

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
