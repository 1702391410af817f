"""How far a pull is: lines for people on a stream, and one small file for the program that started us."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TextIO

ENV_PROGRESS: Final = "FLASHPLANE_PROGRESS"
"""Names the file; it always holds one whole JSON object {phase, done, total, unit}, at the end with {model}."""

READY: Final = "ready"
"""The last phase: the model is in place."""

_FILE_INTERVAL_SECONDS: Final = 0.1
_LINES_PER_PHASE: Final = 10

Unit = Literal["bytes", "tensors"]


class ProgressReporter:
    """Tells both readers, neither too often."""

    def __init__(self, stream: TextIO, file: Path | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._file = file
        self._now = now
        self._phase = ""
        self._lines_told = 0
        self._written_at = float("-inf")

    def say(self, message: str) -> None:
        """One line for people."""
        print(f"flash-pull: {message}", file=self._stream, flush=True)

    def update(self, phase: str, done: int, total: int, unit: Unit) -> None:
        """`done` of `total` in this phase; a phase ends with done = total."""
        if phase != self._phase:
            self._phase, self._lines_told, self._written_at = phase, 0, float("-inf")
        lines_due = done * _LINES_PER_PHASE // max(total, 1)
        if lines_due > self._lines_told:
            self._lines_told = lines_due
            self.say(f"{phase}: {_amount(done, unit)} of {_amount(total, unit)} {unit if unit == 'tensors' else 'MB'}")
        if self._file is not None and (done >= total or self._now() - self._written_at >= _FILE_INTERVAL_SECONDS):
            self._written_at = self._now()
            self._write(self._file, {"phase": phase, "done": done, "total": total, "unit": unit})

    def ready(self, model: Mapping[str, str]) -> None:
        """The model is in place; `model` says whose work it is and under which licence."""
        if self._file is not None:
            self._write(self._file, {"phase": READY, "done": 1, "total": 1, "unit": "tensors", "model": dict(model)})

    def _write(self, file: Path, state: Mapping[str, object]) -> None:
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(file)
        except OSError as error:  # a progress bar that cannot be drawn must not stop the pull
            self.say(f"{ENV_PROGRESS}: {file}: {error.strerror}; going on without it")
            self._file = None


def _amount(count: int, unit: Unit) -> str:
    return f"{count / 1e6:.0f}" if unit == "bytes" else str(count)
