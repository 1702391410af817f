"""What the clients ask: a file's lines, or a few questions of different lengths that any model answers somehow."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flash_operator.traffic.stream import TrafficError

MAX_PROMPTS: Final = 10_000

DEFAULT: Final = (
    "What is the capital of France? Answer in one sentence.",
    "Name three colours.",
    "Write a short poem about the sea.",
    "Explain to a child why the sky is blue.",
    "List the planets of the solar system, the nearest to the sun first.",
    "What is two plus three?",
    "Give a recipe for pancakes in four steps.",
    "Translate 'good morning' into Spanish, Italian and German.",
    "Who wrote Hamlet, and when?",
    "Describe a winter morning in the mountains.",
    "What does an operator do in Kubernetes? Keep it short.",
    "Continue the story: The old lighthouse keeper opened the door and saw",
    "Summarise in one sentence: Bees visit flowers to collect nectar. While they do, pollen sticks to their legs and "
    "is carried to the next flower, which is how many plants are fertilised. Without bees much of our food would be "
    "missing.",
    "Write a polite letter that asks a neighbour to lend a ladder.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron, and why?",
    "Count from one to twenty.",
)


def read(path: Path) -> tuple[str, ...]:
    """One prompt per line; empty lines are none. Raises TrafficError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrafficError(f"--prompts ({path}) cannot be read: {error}") from error
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise TrafficError(f"--prompts ({path}) has no line with a prompt: write one per line")
    if len(found) > MAX_PROMPTS:
        raise TrafficError(f"--prompts ({path}) has {len(found)} prompts, {MAX_PROMPTS} at most: leave some out")
    return found
