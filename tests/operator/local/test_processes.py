"""Child processes and what /proc says of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from flash_operator.local.clock import MonotonicClock
from flash_operator.local.processes import Process, accepts_on, kill_marked, listener_of, marked, resident_bytes

ENV = {"PATH": "/usr/bin:/bin"}


def run(source: str, log: Path, **options: object) -> Process:
    return Process.start([sys.executable, "-SEc", source], env={**ENV, **options.pop("env", {})}, log=log, **options)  # type: ignore[dict-item, arg-type]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    """A zombie runs no more; nobody here reaps it."""
    stat = text_of(Path(f"/proc/{pid}/stat"))
    return bool(stat) and ") Z " not in stat


async def until_said(log: Path, text: str) -> None:
    clock = MonotonicClock()
    deadline = clock.now() + 10
    while text not in text_of(log):
        assert clock.now() < deadline, f"{text!r} was not written"
        await clock.sleep(0.01)


async def test_output_of_both_kinds_goes_to_a_private_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    process = run("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)", log)
    assert await process.wait() == 3
    assert text_of(log).splitlines() == ["out", "err"]
    assert os.stat(log).st_mode & 0o777 == 0o600


async def test_a_missing_program_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Process.start(["/nowhere/program"], env=ENV, log=tmp_path / "a.log")


async def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    process = run(stubborn, log)
    await until_said(log, "up")
    assert await process.stop(0.05, MonotonicClock()) == -signal.SIGKILL


async def test_a_polite_process_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    polite = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
    process = run(polite, log)
    await until_said(log, "up")
    assert await process.stop(10, MonotonicClock()) == 7


async def test_nothing_of_a_session_outlives_its_leader(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    # The child has a process group of its own and ignores SIGTERM, like a model process of a crashed server.
    parent = (
        "import os, signal\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setpgid(0, 0); signal.signal(15, signal.SIG_IGN); print('child', os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    process = run(parent, log)
    await until_said(log, "child ")
    child = int(text_of(log).split()[1])
    process.kill()
    await process.wait()
    clock = MonotonicClock()
    deadline = clock.now() + 5
    while is_running(child):
        assert clock.now() < deadline, "the child lives"
        await clock.sleep(0.01)


async def test_leftovers_are_known_by_their_mark_and_others_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    source = "import signal; print('up', flush=True); signal.pause()"
    ours = run(source, log, env={"FLASHPLANE_LOCAL": str(tmp_path)})
    await until_said(log, "up")
    other_log = tmp_path / "b.log"
    other = run(source, other_log, env={"FLASHPLANE_LOCAL": f"{tmp_path}2"})
    await until_said(other_log, "up")
    assert marked("FLASHPLANE_LOCAL", str(tmp_path)) == (ours.pid,)
    assert kill_marked("FLASHPLANE_LOCAL", str(tmp_path)) == 1
    assert await ours.wait() == -signal.SIGKILL
    assert other.is_running()
    other.kill()
    await other.wait()


async def test_a_passed_socket_arrives_as_descriptor_3(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        source = (
            "import os, select, socket\n"
            "s = socket.socket(fileno=3); e = select.epoll(); e.register(3, select.EPOLLIN)\n"
            "print(os.environ['LISTEN_FDS'], s.getsockname()[1], flush=True)\n"
            "e.poll()\n"
        )
        process = run(source, log, sockets=[listener.fileno()])
        await until_said(log, "\n")
        assert text_of(log).split() == ["1", str(port)]
        assert accepts_on(process.pid, 3)
        assert not accepts_on(process.pid, 4)
        assert listener_of(port) is not None
        process.kill()
        await process.wait()
    assert not accepts_on(process.pid, 3)


def test_the_holder_of_a_port_is_named_with_its_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        holder = listener_of(listener.getsockname()[1])
    assert holder is not None
    assert holder.endswith(f"(pid {os.getpid()})")


def test_memory_of_a_process_that_is_gone_is_nothing() -> None:
    assert resident_bytes(os.getsid(0) + 10_000_000) == 0
