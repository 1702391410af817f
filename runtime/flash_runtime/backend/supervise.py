"""A thin parent for tritonserver: passes signals on, notices a dead model process, leaves nothing behind.

tritonserver itself answers "live" for ever after the process that holds our model has died, and that process may
outlive a crashed server. So the model process holds one end of a pipe, the *lifeline*; when it closes, the server is
ended at once and the exit status says so. Should this parent be killed, the kernel kills the server with it, and the
model process leaves when it sees its server gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from flash_runtime.backend.lifeline import FILE_BUSY, FILE_STOPPING

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_KILL_GRACE_SECONDS: Final = 10
"""Beyond the server's own exit timeout, at which it breaks the streams that are left."""
_ORPHAN_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 5.0
"""A stopping server without open streams takes 2 to 3 s. A request that its client cancelled just as it ended can keep
tritonserver 2.51 waiting for ever (measured), so an idle one is not waited for longer than this."""
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Exit:
    """How it ended: a process exit status and, unless it was asked to stop, the reason in one line."""

    status: int
    reason: str | None = None


def supervise(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    lifeline: Path,
    exit_timeout_seconds: int,
    clock: Callable[[], float] = time.monotonic,
) -> Exit:
    """Run the server until it ends or SIGTERM or SIGINT asks for its end. Call it from the main thread."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    os.mkfifo(lifeline, mode=0o600)
    pipe = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    busy = os.open(lifeline.with_name(FILE_BUSY), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _wakeups() as wakeup:
            server = subprocess.Popen(command, env=dict(environ), preexec_fn=die_with_parent)  # noqa: PLW1509
            stop_seconds = exit_timeout_seconds + _KILL_GRACE_SECONDS
            stopping = lifeline.with_name(FILE_STOPPING)
            return _Watch(server, pipe, busy, wakeup, stopping, stop_seconds, clock).run()
    finally:
        os.close(busy)
        os.close(pipe)


class _Watch:
    """The waiting: on signals, on the lifeline, on the server's end."""

    def __init__(
        self,
        server: subprocess.Popen[bytes],
        pipe: int,
        busy: int,
        wakeup: int,
        stopping: Path,
        stop_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._pipe: int | None = pipe
        self._busy = busy
        self._wakeup = wakeup
        self._stopping = stopping
        self._stop_seconds = stop_seconds
        self._clock = clock
        self._deadline: float | None = None
        self._busy_at = 0.0
        self._said = b""
        self._model_died = False
        self._timed_out = False
        self._stuck = False

    def run(self) -> Exit:
        while self._server.returncode is None:
            self._wait(None if self._deadline is None else min(self._deadline, self._clock() + _LOOK_SECONDS))
            self._end_what_does_not_stop()
        self._end_orphans()
        status = self._server.returncode if self._server.returncode >= 0 else 128 - self._server.returncode
        if self._model_died:
            return Exit(1, self._last_words() or "the process that runs the model died; its server was ended")
        if self._stuck:
            return Exit(0, "every stream had ended, but tritonserver did not stop and was killed")
        if self._timed_out:
            return Exit(1, f"tritonserver did not stop within {self._stop_seconds:.0f} s and was killed")
        if status != 0:
            return Exit(status, self._last_words() or f"tritonserver ended with status {status}; its log says why")
        return Exit(0)

    def _end_what_does_not_stop(self) -> None:
        """Kill a stopping server that is late, or that waits although no stream is open."""
        if self._deadline is None or self._timed_out or self._stuck:
            return
        now = self._clock()
        if self._is_busy():
            self._busy_at = now
        self._timed_out = now >= self._deadline
        self._stuck = not self._timed_out and self._pipe is not None and now >= self._busy_at + _IDLE_SECONDS
        if self._timed_out or self._stuck:
            self._server.kill()

    def _is_busy(self) -> bool:
        try:
            fcntl.flock(self._busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._busy, fcntl.LOCK_UN)
        return False

    def _wait(self, deadline: float | None) -> None:
        timeout = None if deadline is None else max(0.0, deadline - self._clock())
        sources = [self._wakeup] if self._pipe is None else [self._wakeup, self._pipe]
        ready, _, _ = select.select(sources, [], [], timeout)
        if self._pipe in ready:
            self._hear()
        if self._wakeup in ready:
            for number in os.read(self._wakeup, 256):
                if number in (signal.SIGTERM, signal.SIGINT) and self._deadline is None:
                    self._busy_at = self._clock()
                    self._deadline = self._busy_at + self._stop_seconds
                    self._stopping.touch()
                    self._server.send_signal(signal.SIGTERM)
            self._reap()

    def _hear(self) -> None:
        assert self._pipe is not None
        said = os.read(self._pipe, 4096)
        self._said += said
        if not said:
            self._pipe = None
            if self._deadline is None and self._server.returncode is None:
                # Its open streams would hang for ever: breaking their connections is the only news they can get.
                self._model_died = True
                self._server.kill()

    def _reap(self) -> bool:
        """Collect every child that ended: the server, and whatever it left to us. False when there is none left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._server.pid:
                    self._server.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return False

    def _end_orphans(self) -> None:
        """The model process leaves by itself when its server is gone; make sure of it."""
        self._wait_for_children()
        pid = self._model_pid()
        if self._pipe is not None and pid is not None:
            # Still ours to wait for, so the number cannot have passed on to another process.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._wait_for_children()

    def _wait_for_children(self) -> None:
        deadline = self._clock() + _ORPHAN_SECONDS
        while self._reap() and self._clock() < deadline:
            self._wait(deadline)

    def _model_pid(self) -> int | None:
        first, _, _ = self._said.partition(b"\n")
        return int(first) if first.isdigit() else None

    def _last_words(self) -> str | None:
        lines = self._said.decode(errors="replace").splitlines()
        return lines[-1] if len(lines) > 1 else None


@contextlib.contextmanager
def _wakeups() -> Iterator[int]:
    """A file descriptor on which the numbers of arriving signals can be read."""

    def note(_number: int, _frame: FrameType | None) -> None:
        pass  # the number is on the pipe; without a handler it would not be

    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = {number: signal.signal(number, note) for number in handled}
    previous = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
