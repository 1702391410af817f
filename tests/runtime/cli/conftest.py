"""The model commands as one small program over a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from flash_program import Flash
from typer.testing import CliRunner

from flash_runtime.cli import register


@pytest.fixture
def flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flash:
    """Runs `flash ARGUMENTS` in an empty folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHPLANE_CACHE", str(tmp_path / "cache"))
    app = typer.Typer()
    register(app)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
