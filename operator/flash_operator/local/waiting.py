"""What a person sees while a deployment starts. Knows a terminal, and that there may be none."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from flash_operator.local.view import size


class Waiting:
    """A spinner with the first condition that fails and a bar for each long step; plain lines without a terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._last = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Waiting:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, message: str, long_steps: list[tuple[str, int, int, str]]) -> None:
        shown: dict[str, tuple[int, int | None, str]] = {}
        if not long_steps:
            shown[f"{self._title}: {message}"] = (0, None, "")
        for what, done, total, unit in long_steps:
            amount = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done} of {total} {unit}"
            shown[f"{self._title}: {what}"] = (done, total, amount)
        text = "; ".join(shown)
        if not self._console.is_terminal:
            if text != self._last:
                self._console.print(Text(text))
            self._last = text
            return
        for gone in [what for what in self._bars if what not in shown]:
            self._progress.remove_task(self._bars.pop(gone))
        for what, (so_far, whole, amount) in shown.items():
            if what not in self._bars:
                self._bars[what] = self._progress.add_task(Text(what).markup, total=whole, amount="")
            self._progress.update(self._bars[what], completed=so_far, total=whole, amount=amount)
