"""One control plane, or one cluster, per user that goes on after the command that started it: its supervisor and its
state folder.

The supervisor is a program of its own; this file, run as one, is the control plane's. It holds a lock for as long as it
lives, so a stale state file is never believed, and a process id is only used while the lock proves that it is still
that process.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn, Protocol

from control_plane import POLL_SECONDS, START_TIMEOUT_SECONDS, ControlPlane
from hermetic_binaries import provide
from hermetic_errors import ControlPlaneFailed, HermeticError

STOP_TIMEOUT_SECONDS = 60.0
WATCH_SECONDS = 1.0
# A look at the lock holds it for a moment; only one that stays held belongs to another supervisor.
LOCK_TIMEOUT_SECONDS = 2.0
ALREADY_RUNNING = 75  # EX_TEMPFAIL of sysexits.h


@dataclass(frozen=True)
class Running:
    """What a user needs of a control plane that is ready."""

    url: str
    kubeconfig: str
    kubectl: str
    directory: str
    nodes: Mapping[str, int] = field(default_factory=dict)
    """By name, the first process inside."""


class Supervised(Protocol):
    """What goes on in the background."""

    def require_running(self) -> None: ...

    def running(self) -> Running: ...


class Background:
    """The one whose state is in `folder`; `program` is run with the folder and the arguments that `up` was given."""

    def __init__(
        self,
        folder: Path,
        program: Sequence[str] = (__file__,),
        *,
        start_timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        self.folder = folder
        self._program = program
        self._start_timeout_seconds = start_timeout_seconds
        self.log = folder / "supervisor.log"
        self._lock = folder / "supervisor.pid"
        self._state = folder / "state.json"

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> "Background":
        """The control plane's."""
        return cls(state_folder("control-plane", environment))

    def running(self) -> Running | None:
        """None also while it is starting."""
        if self._supervisor_pid() is None or not self._state.exists():
            return None
        return Running(**json.loads(self._state.read_text()))

    def up(self, arguments: Sequence[str] = ()) -> Running:
        """Starts it, unless it runs, and returns when it is ready. Raises ControlPlaneFailed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._supervisor_pid() is None:
            for stale in (self._state, self.log):
                stale.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, *self._program, str(self.folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._start_timeout_seconds + LOCK_TIMEOUT_SECONDS
        try:
            while (running := self.running()) is None:
                if supervisor.poll() not in (None, ALREADY_RUNNING) or time.monotonic() > deadline:
                    raise ControlPlaneFailed(f"it did not come up:\n{self.log.read_text(errors='replace').strip()}")
                time.sleep(POLL_SECONDS)
        except BaseException:
            supervisor.terminate()
            supervisor.wait(STOP_TIMEOUT_SECONDS)
            raise
        return running

    def down(self) -> bool:
        """Stops it and removes the state folder. Returns whether there was one to stop."""
        pid = self._supervisor_pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            if not _becomes_true(lambda: self._supervisor_pid() is None, STOP_TIMEOUT_SECONDS):
                raise ControlPlaneFailed(f"the supervisor (process {pid}) did not end; see {self.log}")
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # unless something else of the project keeps its state there
            self.folder.parent.rmdir()
        return pid is not None

    def supervise(self, make: Callable[[], AbstractContextManager[Supervised]]) -> int:
        """Runs what is made until SIGTERM, or until one of its programs ends."""
        with self._lock.open("a+") as lock:
            if not _becomes_true(lambda: _try_lock(lock, fcntl.LOCK_EX), LOCK_TIMEOUT_SECONDS):
                return ALREADY_RUNNING
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _exit_once)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                with make() as made:
                    self._publish(made.running())
                    while True:
                        made.require_running()
                        time.sleep(WATCH_SECONDS)
            finally:
                self._state.unlink(missing_ok=True)

    def _publish(self, state: Running) -> None:
        unfinished = self._state.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(state)))
        unfinished.replace(self._state)

    def _supervisor_pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError), self._lock.open() as lock:
            # The file is empty for a moment, between being locked and being written.
            if not _try_lock(lock, fcntl.LOCK_SH) and (content := lock.read()):
                return int(content)
        return None


def state_folder(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's state of `name` is kept."""
    root = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "flashplane" / name


def described(control_plane: ControlPlane, nodes: Mapping[str, int] | None = None) -> Running:
    """What a user needs of this control plane, and of these nodes."""
    return Running(
        url=control_plane.url,
        kubeconfig=str(control_plane.kubeconfig),
        kubectl=str(control_plane.binaries.kubectl),
        directory=str(control_plane.directory),
        nodes=nodes or {},
    )


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _becomes_true(holds: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _exit_once(_number: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the clean-up that the first one began.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


class _SupervisedControlPlane(ControlPlane):
    def running(self) -> Running:
        return described(self)


def supervisor_main(folder: str, make: Callable[[], AbstractContextManager[Supervised]]) -> NoReturn:
    """The rest of a supervisor's process."""
    try:
        sys.exit(Background(Path(folder)).supervise(make))
    except HermeticError as error:
        sys.exit(str(error))  # `up` shows it, without a traceback


if __name__ == "__main__":
    crds = [Path(argument) for argument in sys.argv[2:]]
    supervisor_main(sys.argv[1], lambda: _SupervisedControlPlane(provide(), crds=crds))
