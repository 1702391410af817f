"""What truth.py measured, as text and plot: docs/models.md and docs/models.svg."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.model.evaluate import Score

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
PLOT: Final = PAGE.with_name("models.svg")
LOOKAHEADS: Final = (1, 2, 4, 8)
_MARKS: Final = ("<!-- measured: begin -->", "<!-- measured: end -->")


@dataclass(frozen=True)
class Model:
    """One row."""

    label: str
    uri: str
    variant: str


@dataclass(frozen=True)
class Accepted:
    """How much of one target's answers to one kind of question a draft foresees."""

    target: str
    kind: str
    match: float
    tokens_per_step: tuple[float, ...]
    """For each of LOOKAHEADS."""


def table(teacher: Model, others: Sequence[Model], scores: Mapping[str, Mapping[str | None, Score]]) -> str:
    kinds = list(scores)
    lines = [
        "| model | " + " | ".join(kinds) + " | same best token: " + " / ".join(kinds) + " |",
        "|---|" + "---|" * (len(kinds) + 1),
        f"| {teacher.label}, bf16 | " + " | ".join(f"{scores[kind][None].perplexity:.2f}" for kind in kinds) + " | |",
    ]
    for model in others:
        found = [scores[kind][model.label] for kind in kinds]
        figures = " | ".join(f"{one.perplexity:.2f} ({one.change:+.0%})" for one in found)
        lines.append(f"| {model.label} | {figures} | " + " / ".join(f"{one.same_top:.0%}" for one in found) + " |")
    return "\n".join(lines)


def formats(scores: Mapping[str, Mapping[str | None, Score]], own: Model, others: Sequence[Model]) -> str:
    """What rounding costs, beside the same weights in bf16."""

    def cost(model: Model) -> str:
        found = (scores[kind][model.label].perplexity / scores[kind][own.label].perplexity - 1 for kind in scores)
        return f"{model.label} " + " / ".join(f"{one:+.1%}" for one in found)

    return f"Perplexity over its own bf16, {' / '.join(scores)}: " + "; ".join(cost(model) for model in others) + "."


def acceptance(accepted: Sequence[Accepted]) -> str:
    lookaheads = " / ".join(map(str, LOOKAHEADS))
    lines = [
        f"| the draft on greedy answers of | to | greedy match | tokens for each step, by lookahead {lookaheads} |",
        "|---|---|---|---|",
    ]
    for one in accepted:
        lengths = " / ".join(f"{length:.2f}" for length in one.tokens_per_step)
        lines.append(f"| {one.target} | {one.kind} | {one.match:.2f} | {lengths} |")
    return "\n".join(lines)


def plot(
    models: Sequence[Model], scores: Mapping[str, Mapping[str | None, Score]], accepted: Sequence[Accepted]
) -> bool:
    """Two panels in one SVG; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        tell("plot", "left out: matplotlib is not installed")
        return False
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "models"
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = list(scores)
    width = 0.8 / (len(models) + 1)
    for place, label in enumerate([None, *(model.label for model in models)]):
        heights = [scores[kind][label].perplexity for kind in kinds]
        at = [index + (place - len(models) / 2) * width for index in range(len(kinds))]
        left.bar(at, heights, width, label="the teacher, bf16" if label is None else label.replace("`", ""))
    left.set_xticks(range(len(kinds)), kinds)
    left.set_yscale("log")
    left.set_ylabel("perplexity")
    left.legend(fontsize=7)
    for one in accepted:
        if one.target == accepted[0].target:
            label = f"{one.kind} (match {one.match:.2f})"
            right.plot(
                LOOKAHEADS, one.tokens_per_step, marker="o", linewidth=2 if one.kind == "all" else 1, label=label
            )
    right.set_xlabel("lookahead")
    right.set_ylabel("tokens for each step of flash-tiny")
    right.set_ylim(bottom=1)
    right.grid(visible=True, alpha=0.3)
    right.legend(fontsize=7)
    figure.savefig(PLOT, metadata={"Date": None})
    return True


def write(measured: str) -> None:
    page = PAGE.read_text()
    before, rest = page.split(_MARKS[0])
    _, after = rest.split(_MARKS[1])
    PAGE.write_text(f"{before}{_MARKS[0]}\n{measured}\n{_MARKS[1]}{after}")
    print(measured)


def tell(what: str, figures: object) -> None:
    print(what, figures, file=sys.stderr, flush=True)
