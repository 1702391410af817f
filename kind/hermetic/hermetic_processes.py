"""Programs that live and die together, with their logs in one directory.

Knows process groups and files. Does not know which programs they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hermetic_errors import ControlPlaneFailed

GUARDIAN = Path(__file__).resolve().parent / "hermetic_guardian.py"
STOP_TIMEOUT_SECONDS = 180.0  # a second or two on an idle machine


class Program:
    """One running program and its log."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def require_running(self) -> None:
        """Raises ControlPlaneFailed with the last log lines once the program has ended."""
        if not self.is_running():
            raise ControlPlaneFailed(
                f"{self.name} ended with {self._popen.returncode}; its last lines:\n{self.last_lines()}"
            )

    def reap(self) -> None:
        """Collects the exit status of a program that the guardian killed, and kills it if there was no guardian."""
        self._popen.kill()
        self._popen.wait(STOP_TIMEOUT_SECONDS)


class ProgramGroup:
    """A process group and a directory, both gone after `close()` and after the death of this process.

    One limit: a process forked from this one (not spawned) shares the pipe to the guardian, so after a SIGKILL the
    clean-up waits until such a fork has ended too.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="flashplane-"))  # its mode is 0700
        self.programs: list[Program] = []
        self._closed = False
        try:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN), str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
        except BaseException:
            self.directory.rmdir()
            raise

    @property
    def pids(self) -> list[int]:
        """The guardian first, then the programs in the order in which they were started."""
        return [self._guardian.pid, *(program.pid for program in self.programs)]

    def spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Program:
        log_path = self.directory / f"{name}.log"
        with log_path.open("wb") as log:
            popen = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self._guardian.pid,
            )
        program = Program(name, popen, log_path)
        self.programs.append(program)
        return program

    def close(self) -> None:
        """Everything in the directory is thrown away, so no program gets to finish its work: SIGKILL at once."""
        if self._closed:
            return
        self._closed = True
        # communicate() returns at the end of the guardian's output: the directory is gone by then.
        self._guardian.communicate(b"stop", timeout=STOP_TIMEOUT_SECONDS)
        for program in self.programs:
            program.reap()
        if self.directory.exists():  # someone killed the guardian
            shutil.rmtree(self.directory)
