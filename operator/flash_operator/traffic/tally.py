"""What became of the streams, window by window. Pure: a stream in, a row of the table out.

A window is the time between two marks; a stream belongs to the one in which it ended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from flash_operator.traffic.stream import Ending, Stream

PERCENTILES: Final = (50, 90, 99)
MAX_CAUSES: Final = 32


class Verdict(StrEnum):
    """What a stream is counted as."""

    RIGHT = "right"
    FAILED = "failed"
    TRUNCATED = "truncated"
    CHANGED = "changed"
    """It came through and is not what the same prompt got before."""


def judge(stream: Stream, golden: str) -> Verdict:
    """One stream against the digest that its prompt's answer has."""
    if stream.ending is not Ending.WHOLE:
        return Verdict(stream.ending)
    return Verdict.RIGHT if stream.digest == golden else Verdict.CHANGED


@dataclass
class Window:
    """The streams between two marks."""

    name: str
    began: float
    ended: float | None = None
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    """Why streams did not come through, by the name of the cause."""
    first_token_seconds: list[float] = field(default_factory=list)
    per_token_seconds: list[float] = field(default_factory=list)
    longest_pause_seconds: float | None = None
    """The longest that any of its streams was without a token, before the first one or between two."""

    def add(self, stream: Stream, verdict: Verdict) -> None:
        """Count one."""
        self.verdicts[verdict] += 1
        if verdict is not Verdict.RIGHT:
            cause = stream.cause or str(verdict)
            self.causes[cause if cause in self.causes or len(self.causes) < MAX_CAUSES else "others"] += 1
        if stream.first_token_seconds is not None:
            self.first_token_seconds.append(stream.first_token_seconds)
        if stream.per_token_seconds is not None:
            self.per_token_seconds.append(stream.per_token_seconds)
        self.longest_pause_seconds = longest(self.longest_pause_seconds, stream.longest_pause_seconds)

    @property
    def num_streams(self) -> int:
        """All that ended in it."""
        return self.verdicts.total()

    @property
    def flawless(self) -> bool:
        """Whether every stream came through unchanged."""
        return self.num_streams == self.verdicts[Verdict.RIGHT]

    def as_json(self, now: float) -> dict[str, Any]:
        """The row for tools."""
        return {
            "window": self.name,
            "seconds": round((self.ended if self.ended is not None else now) - self.began, 3),
            "streams": self.num_streams,
            **{str(verdict): self.verdicts[verdict] for verdict in Verdict if verdict is not Verdict.RIGHT},
            "ttftMilliseconds": _percentiles(self.first_token_seconds),
            "tpotMilliseconds": _percentiles(self.per_token_seconds),
            "longestPauseMilliseconds": milliseconds(self.longest_pause_seconds),
            "causes": dict(self.causes.most_common()),
        }


def total(windows: Sequence[Window]) -> Window:
    """All of them as one."""
    whole = Window("all", windows[0].began if windows else 0.0, windows[-1].ended if windows else 0.0)
    for window in windows:
        whole.verdicts.update(window.verdicts)
        whole.causes.update(window.causes)
        whole.first_token_seconds += window.first_token_seconds
        whole.per_token_seconds += window.per_token_seconds
        whole.longest_pause_seconds = longest(whole.longest_pause_seconds, window.longest_pause_seconds)
    return whole


def longest(*seconds: float | None) -> float | None:
    """Of those that are known; None of none."""
    return max((each for each in seconds if each is not None), default=None)


def milliseconds(seconds: float | None) -> float | None:
    """To a tenth."""
    return None if seconds is None else round(seconds * 1000, 1)


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that so many percent do not exceed (nearest rank); None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    return {f"p{percent}": milliseconds(percentile(seconds, percent)) for percent in PERCENTILES}
