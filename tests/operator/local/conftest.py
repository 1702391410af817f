"""Fixtures of local mode's unit tests: a clock that never waits, a machine in a temporary folder, small programs."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_operator.local.place import Place
from flash_operator.local.podspec import Machine
from flash_operator.local.store import Store

NOW = "2026-01-01T00:00:00Z"


class FakeClock:
    """Sleeping takes no time and is written down; time passes only by sleeping."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._now = 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "state")
    place.create()
    return place


@pytest.fixture
def machine(place: Place, tmp_path: Path) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    env = {"PATH": "/usr/bin:/bin"}
    return Machine(place=place, cache=tmp_path / "cache", bin=folder, python=Path(sys.executable), env=env)


@pytest.fixture
def store(place: Place) -> Store:
    uids = iter(range(1000))
    return Store(place.objects, now=lambda: NOW, new_uid=lambda: f"uid-{next(uids)}")


@pytest.fixture
def program(machine: Machine) -> Callable[[str, str], Path]:
    """Write an executable Python program where the machine looks for its own programs."""

    def write(name: str, source: str) -> Path:
        path = machine.bin / name
        path.write_text(f"#!{sys.executable} -SE\n{textwrap.dedent(source)}")
        path.chmod(0o755)
        return path

    return write
