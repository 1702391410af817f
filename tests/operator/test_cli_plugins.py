"""`flash` shows the commands that other packages bring along."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest
import typer
from typer.testing import CliRunner

from flash_operator import cli


def test_the_commands_about_models_are_registered() -> None:
    (found,) = entry_points(group=cli.COMMANDS_GROUP)
    assert found == EntryPoint("models", "flash_runtime.cli:register", cli.COMMANDS_GROUP)
    app = typer.Typer()
    found.load()(app)
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for command in ("pack", "eval", "info"):
        assert command in shown


def test_the_program_offers_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["flash", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    for command in ("lint", "plan", "up", "chat", "down", "pack", "eval", "info"):
        assert f" {command} " in shown
