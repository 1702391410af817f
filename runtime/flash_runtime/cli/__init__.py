"""The commands of `flash` about models. Says and asks; the work is elsewhere.

`flash` finds them through the entry point group `flashplane.commands`, so that neither plane imports the other.
Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import typer

from flash_runtime.cli.distill import distill
from flash_runtime.cli.evaluate import evaluate
from flash_runtime.cli.info import info
from flash_runtime.cli.lora import lora
from flash_runtime.cli.pack import pack


def register(app: typer.Typer) -> None:
    """Add the commands to the `flash` program."""
    panel = "Models"
    app.command("pack", rich_help_panel=panel)(pack)
    app.command("eval", rich_help_panel=panel)(evaluate)
    app.command("info", rich_help_panel=panel)(info)
    app.command("distill", rich_help_panel=panel)(distill)
    app.command("lora", rich_help_panel=panel)(lora)
