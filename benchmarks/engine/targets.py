"""What each case has to reach, and what would be excellent. Pure: figures in, a verdict out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Figure = Literal["ours", "ratio", "share_of_limit"]
LLAMA_Q8: Final = "llama.cpp Q8_0"
LLAMA_Q4: Final = "llama.cpp Q4_0"
TRANSFORMERS: Final = "transformers bf16"
ENGINE_ALONE: Final = "engine alone"
THREADS: Final = 2
"""The number of threads that the targets are about."""


@dataclass(frozen=True)
class Bound:
    """One figure of a row against a number."""

    figure: Figure
    sense: Literal["at least", "at most"]
    value: float

    def holds(self, figures: dict[Figure, float | None]) -> bool:
        """Whether the figure is known and on the right side."""
        found = figures[self.figure]
        if found is None:
            return False
        return found >= self.value if self.sense == "at least" else found <= self.value

    def text(self, unit: str) -> str:
        """`≥ 1.9x` of the peer, `≤ 9 ms`, `≥ 65%` of the limit."""
        sign = "≥" if self.sense == "at least" else "≤"
        match self.figure:
            case "ours":
                return f"{sign} {self.value:g} {unit}"
            case "ratio":
                return f"{sign} {self.value:g}x"
            case "share_of_limit":
                return f"{sign} {self.value:.0%}"


@dataclass(frozen=True)
class Target:
    """For one case beside one peer (None = there is none)."""

    case: str
    peer: str | None
    must: Bound
    excellent: Bound | None = None


def _at_least(figure: Figure, must: float, excellent: float | None = None) -> tuple[Bound, Bound | None]:
    return Bound(figure, "at least", must), None if excellent is None else Bound(figure, "at least", excellent)


def _at_most(figure: Figure, must: float, excellent: float | None = None) -> tuple[Bound, Bound | None]:
    return Bound(figure, "at most", must), None if excellent is None else Bound(figure, "at most", excellent)


TARGETS: Final = (
    Target("decode, batch 1, W8A8", LLAMA_Q8, *_at_least("ratio", 1.9, 2.4)),
    Target("decode, batch 16, W8A8", LLAMA_Q8, *_at_least("ratio", 4, 6)),
    Target("prefill 512, W8A8", LLAMA_Q8, *_at_least("ratio", 6.5, 10)),
    Target("prefill 512, W8A8", TRANSFORMERS, *_at_least("ratio", 2.5)),
    Target("decode, batch 1, W4A8", LLAMA_Q4, *_at_least("ratio", 1.15, 1.6)),
    Target("first token, 16-token prompt", LLAMA_Q8, Bound("ratio", "at most", 0.33), Bound("ours", "at most", 9)),
    Target("expert FFN, one token", None, *_at_least("share_of_limit", 0.65, 0.8)),
    Target("Python time per step, batch 16", None, *_at_most("ours", 0.3, 0.1)),
    Target("process start to first token, demo model", None, *_at_most("ours", 1.0, 0.4)),
    Target("memory of a full engine", None, *_at_most("share_of_limit", 1.0)),
    Target("memory of a full engine, demo model", None, *_at_most("share_of_limit", 1.0)),
    Target("through tritonserver, batch 16", ENGINE_ALONE, *_at_least("ratio", 0.85, 0.95)),
)


def target_of(case: str, peer: str | None, threads: int) -> Target | None:
    """The target of a row, if it has one."""
    if threads != THREADS:
        return None
    return next((target for target in TARGETS if (target.case, target.peer) == (case, peer)), None)


def describe(target: Target, unit: str) -> str:
    """Both bounds as text, the excellent one in brackets."""
    if target.excellent is None:
        return target.must.text(unit)
    return f"{target.must.text(unit)} ({target.excellent.text(unit)})"


def verdict(target: Target, figures: dict[Figure, float | None]) -> Literal["excellent", "reached", "not reached"]:
    """What the figures of a row say about its target."""
    if target.excellent is not None and target.excellent.holds(figures) and target.must.holds(figures):
        return "excellent"
    return "reached" if target.must.holds(figures) else "not reached"
