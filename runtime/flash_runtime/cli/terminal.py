"""What the model commands share: consoles, failures as one line, a bar for pulls, and what MODEL may be."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, Self, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from flash_runtime.model.progress import ProgressReporter, Unit

if TYPE_CHECKING:
    from flash_runtime.model.cache import Cache
    from flash_runtime.model.sources import Source

_EXIT_DAMAGED: Final = 3
_EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130
_WIDTH_WITHOUT_TERMINAL: Final = 160

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
err = Console(highlight=False, width=None if sys.stderr.isatty() else _WIDTH_WITHOUT_TERMINAL, stderr=True)

Model = Annotated[
    str,
    typer.Argument(
        help="builtin://NAME, hf://ORG/NAME, https://HOST/FILE.gguf, a .gguf file or a folder with safetensors.",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the source; unset = its own.", show_default=False)
]
Sha256 = Annotated[
    str | None,
    typer.Option("--sha256", metavar="HEX", help="Expected SHA-256 of the weights file; another one is refused."),
]


def fail(message: str, code: int = 1) -> NoReturn:
    """One line on standard error, and the exit code."""
    err.print(Text.assemble(("✗ ", "red"), message), soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Turn the expected failures of the `with` block into one line and an exit code."""
    from flash_runtime.model.errors import ModelError
    from flash_runtime.packed import PackedError

    try:
        yield
    except ModelError as error:
        fail(str(error), error.exit_code)
    except PackedError as error:
        fail(str(error), _EXIT_DAMAGED)
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: this command needs `pip install 'flashplane[local]'`")
    except KeyboardInterrupt:
        fail("interrupted; nothing half done is in the way of the next try", _EXIT_INTERRUPTED)


def source_of(model: str, revision: str | None, sha256: str | None = None) -> Source:
    """The source that MODEL names: a URI, fetched where it is elsewhere, or a path here. Raises ModelError."""
    import os

    from flash_runtime.model.sources import open_source

    uri = model if "://" in model else Path(model).expanduser().absolute().as_uri()
    with BarReporter() as progress:
        return open_source(
            uri, revision=revision, sha256=sha256, environment=os.environ, cache=user_cache(), progress=progress
        )


def user_cache() -> Cache:
    """The cache folder of this user."""
    import os

    from flash_runtime.model.cache import Cache, default_root

    return Cache(default_root(os.environ))


class BarReporter(ProgressReporter):
    """A pull's progress as bars on standard error."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        super().__init__(stream, None)
        self._progress = bars()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, message: str) -> None:
        self._progress.console.print(message, style="dim", soft_wrap=True)

    def update(self, phase: str, done: int, total: int, unit: Unit) -> None:
        scale = 1_000_000 if unit == "bytes" else 1
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, unit="MB" if unit == "bytes" else unit)
        self._progress.update(self._tasks[phase], completed=done // scale, total=max(total // scale, 1))


def bars() -> Progress:
    """Bars on standard error that vanish when they are done; nothing at all where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
