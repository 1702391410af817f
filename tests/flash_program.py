"""What tests call `flash` with: its arguments, any of which may be a path."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

Flash = Callable[..., Result]
