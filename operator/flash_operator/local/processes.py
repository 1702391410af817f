"""Child processes, each the leader of a session of its own, and what /proc says of the others. Linux only."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from flash_operator.local.clock import Clock

FIRST_PASSED_FD: Final = 3
"""Where systemd's socket activation hands the first socket over."""
_LISTEN: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""
_PROC: Final = Path("/proc")
# What Python ignores, a program expects to find at its default.
_DEFAULT_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process:
    """A running child. When its leader ends, whatever is left of its session is killed: nothing outlives it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._pidfd, self._ended)

    @classmethod
    def start(cls, argv: Sequence[str], *, env: Mapping[str, str], log: Path, sockets: Sequence[int] = ()) -> Process:
        """Run a program with its output appended to `log` and `sockets` at descriptors 3, 4, … Raises OSError."""
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # Copies far above the targets first: duplicating onto 3 must not destroy a source that is 3 itself.
        copies = [_copy_above(fd) for fd in sockets]
        try:
            actions += [(os.POSIX_SPAWN_DUP2, fd, FIRST_PASSED_FD + index) for index, fd in enumerate(copies)]
            environment = {**env, **({"LISTEN_FDS": str(len(sockets))} if sockets else {})}
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                environment,
                file_actions=actions,
                setsid=True,
                setsigdef=_DEFAULT_SIGNALS,
                setsigmask=(),
            )
        finally:
            for fd in copies:
                os.close(fd)
        return cls(pid)

    async def wait(self) -> int:
        """The exit code; -N after signal N."""
        return await asyncio.shield(self._exit)

    def is_running(self) -> bool:
        return not self._exit.done()

    def signal(self, number: signal.Signals) -> None:
        """To the leader only, as a container runtime does."""
        if self.is_running():
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float, clock: Clock) -> int:
        """SIGTERM, time to finish, SIGKILL."""
        self.signal(signal.SIGTERM)
        timer = asyncio.ensure_future(clock.sleep(grace_seconds))
        await asyncio.wait((timer, self._exit), return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        self.kill()
        return await self.wait()

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        # Before the leader is reaped its number cannot be used again, so these are its own children.
        for pid in _session_members(self.pid):
            _kill(pid)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._exit.set_result(os.waitstatus_to_exitcode(status))


def _copy_above(fd: int, lowest: int = 64) -> int:
    """A copy of the descriptor with a number of at least `lowest`, closed on exec."""

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def kill_marked(variable: str, value: str) -> int:
    """SIGKILL every process of this user whose environment has `variable=value`; how many there were."""
    return sum(_kill(pid) for pid in marked(variable, value))


def marked(variable: str, value: str) -> tuple[int, ...]:
    """Processes of this user, other than this one, whose environment has `variable=value`."""
    wanted = f"{variable}={value}".encode()
    return tuple(pid for pid in _pids() if pid != os.getpid() and wanted in (_read(pid, "environ") or b"").split(b"\0"))


def resident_bytes(pid: int) -> int:
    """Memory of a process and its children that is in RAM, shared pages included; 0 when it is gone."""
    pages = sum(
        int(content.split()[1]) for member in _session_members(pid, leader=True) if (content := _read(member, "statm"))
    )
    return pages * os.sysconf("SC_PAGE_SIZE")


def accepts_on(pid: int, descriptor: int) -> bool:
    """Whether a process waits for events on one of its descriptors (by epoll): for a listening socket, connections."""
    try:
        folder = _PROC / str(pid) / "fdinfo"
        tables = [(folder / name).read_text() for name in os.listdir(folder)]
    except OSError:
        return False  # it ended, or a descriptor was closed meanwhile: the next look will tell
    return any(
        line.split()[:2] == ["tfd:", str(descriptor)]
        for table in tables
        for line in table.splitlines()
        if line.startswith("tfd:")
    )


def listener_of(port: int) -> str | None:
    """The process that listens on a TCP port of this machine (`python3 (pid 4711)`), None when it cannot be seen."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for line in _lines(_PROC / "net" / table)
        if len(fields := line.split()) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in _pids() if wanted else ():
        if wanted & _open_files(pid):
            name = (_read(pid, "comm") or b"?").decode(errors="replace").strip()
            return f"{name} (pid {pid})"
    return None


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdecimal())


def _session_members(leader_pid: int, *, leader: bool = False) -> tuple[int, ...]:
    members = []
    for pid in _pids():
        content = _read(pid, "stat")
        # The program's name, in parentheses, may hold anything; fields are counted from behind it.
        if content and int(content.rpartition(b")")[2].split()[3]) == leader_pid and (leader or pid != leader_pid):
            members.append(pid)
    return tuple(members)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _read(pid: int, file: str) -> bytes | None:
    try:
        return (_PROC / str(pid) / file).read_bytes()
    except OSError:
        return None  # it ended, or it is someone else's


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()[1:]
    except OSError:
        return []


def _open_files(pid: int) -> set[str]:
    found = set()
    folder = _PROC / str(pid) / "fd"
    with contextlib.suppress(OSError):  # it ended, or it is someone else's
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed a moment ago
                found.add(os.readlink(folder / name))
    return found
