"""The commands' side of the daemon, with a real one; what it serves is refused, so no process is started for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import a_manifest

from flash_operator.local.client import Client
from flash_operator.local.place import Place
from flash_operator.local.wire import DaemonUnavailableError


class Commands(Client):
    """Remembers what it started, as a program that has ended would not."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        started = self.start_daemon()
        assert started is not None
        self.daemons.append(started)
        return started


@pytest.fixture
def client(place: Place) -> Iterator[Commands]:
    client = Commands(place)
    yield client
    deployed = [entry["manifest"]["metadata"] for entry in client.snapshot().deployments]
    client.down([(metadata["namespace"], metadata["name"]) for metadata in deployed], waiting=lambda _: None)
    assert [daemon.wait(timeout=60) for daemon in client.daemons if daemon.returncode is None] in ([], [0])


def test_a_daemon_that_serves_someone_else_by_now_is_not_abandoned(client: Commands) -> None:
    started = client.start()
    client.wait_for_daemon(started)
    client.apply([a_manifest(model={"source": "http://host/m.gguf"})])
    client.abandon_daemon(started)
    snapshot = client.snapshot()
    assert snapshot.daemon_pid == started.pid
    assert [entry["manifest"]["metadata"]["name"] for entry in snapshot.deployments] == ["chat"]


def test_a_daemon_that_was_started_for_nothing_ends(client: Commands) -> None:
    started = client.start()
    client.wait_for_daemon(started)
    client.abandon_daemon(started)
    assert started.wait(timeout=60) == 0


def test_a_state_directory_that_cannot_be_made_is_told_with_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DaemonUnavailableError, match=r"file/state cannot be used \(Not a directory\): set FLASHPLANE_STATE"
    ):
        Client(Place(tmp_path / "file" / "state")).start_daemon()


def test_of_two_daemons_the_one_that_came_too_late_is_ended(client: Commands) -> None:
    first, second = client.start(), client.start()
    client.wait_for_daemon(first)
    client.wait_for_daemon(second)
    assert {first.poll() is None, second.poll() is None} == {True, False}
