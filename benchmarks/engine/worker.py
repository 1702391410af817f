"""One engine in a process of its own, asked in lines of JSON (see `workers/protocol.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Final, Self

from workers.protocol import Generation

_START_SECONDS: Final = 300.0
_ANSWER_SECONDS: Final = 120.0
_WORKERS: Final = Path(__file__).resolve().parent / "workers"


class WorkerFailed(Exception):
    """The program ended, or gave no answer in time; its log is named."""


class Worker:
    """A running program. Only one question at a time."""

    def __init__(self, python: Path, program: str, options: dict[str, Any], *, log: Path) -> None:
        self._log = log
        self._program = program
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, _WORKERS / program, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that a server it started ends with it, and Ctrl-C is ours to handle
            )
        self._read(_START_SECONDS)

    def generate(self, prompts: list[list[int]], tokens: int) -> Generation:
        """Continue all prompts together."""
        return Generation(**self.ask("generate", prompts=prompts, tokens=tokens))

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """One question, one answer. Raises WorkerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerFailed(f"{self._program} has ended; see {self._log}") from error
        return self._read(_ANSWER_SECONDS)

    def close(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        alarm = threading.Timer(timeout_seconds, self._kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended, or took too long"}
        if "error" in answer:
            raise WorkerFailed(f"{self._program}: {answer['error']}; see {self._log}")
        return answer
