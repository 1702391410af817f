"""`flash distill`: a Flash family from a dense teacher, as a recipe says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from flash_runtime.cli.terminal import BarReporter, fail, failures_told, out, source_of, user_cache

_SECONDS_BETWEEN_LINES: Final = 10.0


def distill(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see docs/how-to/make-your-own-flash.md.")],
    fields: Annotated[
        bool, typer.Option("--fields", help="Print what each field of a recipe means, and do nothing.")
    ] = False,
) -> None:
    """Make a sparse student and a draft from a dense teacher: carve, distil, finish, train the draft.

    Each stage is done once and can be interrupted: the same command goes on from the last checkpoint. Carving needs
    nothing more; the other stages, among them the finish in the engine's number formats, need torch
    (`pip install 'flashplane[local,train]'`).

    Example: flash distill recipes/flash-tiny/recipe.yaml
    """
    with failures_told():
        from flash_runtime.training.config import FamilyRecipe, describe, read_recipe

        if fields:
            out.print(describe(FamilyRecipe))
            return
        wanted = read_recipe(recipe)
        if (wanted.distil or wanted.draft) and find_spec("torch") is None:
            fail(f"{recipe}: distil and draft need torch: `pip install 'flashplane[local,train]'`, or leave them out")
        from flash_runtime.training.curves import draw_losses
        from flash_runtime.training.family import Family

        told = _Told()
        source = source_of(wanted.teacher, None)
        with BarReporter() as progress:
            family = Family(wanted, source, cache=user_cache(), progress=progress, tell=told)
        made = family.make()
        for stage in ("distil", "finish", "draft"):
            log = wanted.output / ("draft-run" if stage == "draft" else stage) / "log.jsonl"
            if log.is_file() and draw_losses(log, wanted.output / f"{stage}.png"):
                out.print(f"{wanted.output / f'{stage}.png'}: the losses of {stage}", style="dim", soft_wrap=True)
    for name, folder in (("student", made.student), ("draft", made.draft)):
        if folder is not None:
            out.print(f"[green]✓[/green] {name}: {folder}; pack it with `flash pack {folder}`", soft_wrap=True)


class _Told:
    """Says how a stage goes on, now and then."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._tokens: dict[str, int] = {}

    def __call__(self, stage: str, figures: Mapping[str, Any]) -> None:
        if "step" not in figures and "tokens" in figures:  # the lessons tell how many more
            self._tokens[stage] = self._tokens.get(stage, 0) + int(figures["tokens"])
            figures = {"tokens": self._tokens[stage]}
        now = time.monotonic()
        if now - self._said.get(stage, -_SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return
        self._said[stage] = now
        words = " ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        out.print(f"{stage}: {words}", style="dim", soft_wrap=True)
