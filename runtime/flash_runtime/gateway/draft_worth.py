"""What proposals were worth lately, over all engines, from their metrics pages. Numbers in, a report out.

Engines count since their start, so what is reported is a difference between two looks. Nothing here asks anybody.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from flash_api.draft_report import DraftReport

WINDOW_SECONDS: Final = 300.0
"""Of acceptance and tokens per step: as long as latencies are remembered."""
LOOKS_MAX: Final = 100
TOKENS_LEAST: Final = 32
"""Of fewer a share says nothing; requests that prove readiness are of one token each."""

_COUNTERS: Final = {
    "flash_engine_proposed_tokens_total": "proposed",
    "flash_engine_accepted_tokens_total": "accepted",
    "flash_engine_generated_tokens_total": "generated",
    "flash_engine_sequence_steps_total": "answers",
}
_FALLBACKS: Final = "flash_engine_draft_fallbacks_total"
_SPEED_UP: Final = "flash_engine_draft_speed_up"
"""1 = an engine does not know yet."""
_ACTIVE: Final = "flash_engine_draft_active"
_INACTIVE: Final = "flash_engine_draft_inactive"
"""By reason, 1 for the one that holds."""


@dataclass(frozen=True)
class Page:
    """What one engine has counted, and what it says of now."""

    counts: Mapping[str, float] = field(default_factory=dict)
    fallbacks: Mapping[str, float] = field(default_factory=dict)
    speed_up: float | None = None
    active: bool | None = None
    why_not: str | None = None


def read_page(text: str) -> Page | None:
    """The figures of a page in Prometheus' text format; None when it is not one of an engine."""
    counts: defaultdict[str, float] = defaultdict(float)
    fallbacks: defaultdict[str, float] = defaultdict(float)
    told: dict[str, float] = {}
    why_not: str | None = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not math.isfinite(sample.value):
                    continue
                if (name := _COUNTERS.get(sample.name)) is not None:
                    counts[name] += sample.value
                elif sample.name == _FALLBACKS:
                    fallbacks[sample.labels["reason"]] += sample.value
                elif sample.name in (_SPEED_UP, _ACTIVE):
                    told[sample.name] = sample.value
                elif sample.name == _INACTIVE and sample.value > 0:
                    why_not = sample.labels["reason"]
    except (ValueError, KeyError):
        return None
    if "generated" not in counts:
        return None
    active = told.get(_ACTIVE)
    speed_up = told.get(_SPEED_UP)
    return Page(
        counts,
        fallbacks,
        speed_up=None if speed_up == 1.0 else speed_up,
        active=None if active is None else active > 0,
        why_not=why_not,
    )


@dataclass(frozen=True)
class _Look:
    at: float
    counts: Mapping[str, float]
    """What all engines have counted between the look before and this one."""
    fallbacks: Mapping[str, float]


class DraftWorth:
    """Looks of the last minutes."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self._looks: deque[_Look] = deque(maxlen=LOOKS_MAX)

    def take(self, pages: Mapping[str, Page], now: float) -> None:
        """The pages of all engines that answered, by address. Of an engine that is seen for the first time nobody knows
        since when it counts."""
        known = [(page, self._pages[address]) for address, page in pages.items() if address in self._pages]
        counts = _sum(_since(page.counts, former.counts) for page, former in known)
        fallbacks = _sum(_since(page.fallbacks, former.fallbacks) for page, former in known)
        self._pages = dict(pages)
        self._looks.append(_Look(now, counts, fallbacks))
        while self._looks and self._looks[0].at < now - WINDOW_SECONDS:
            self._looks.popleft()

    def report(self) -> DraftReport | None:
        """None = no engine has answered."""
        if not self._pages:
            return None
        counts = _sum(look.counts for look in self._looks)
        active, why_not = self._activity()
        proposed, generated, answers = (counts[name] for name in ("proposed", "generated", "answers"))
        return DraftReport(
            active=active,
            why_not=why_not,
            acceptance=min(1.0, counts["accepted"] / proposed) if proposed >= TOKENS_LEAST else None,
            tokens_per_step=max(1.0, generated / answers) if generated >= TOKENS_LEAST and answers else None,
            speedup=self._speed_up(),
        )

    def _activity(self) -> tuple[bool | None, str | None]:
        """As it was when something was generated last; an engine's own word counts more than ours."""
        look = next((look for look in reversed(self._looks) if look.counts.get("generated")), None)
        if look is None:
            return None, None
        said = [page.active for page in self._pages.values() if page.active is not None]
        active = any(said) if said else look.counts.get("proposed", 0.0) > 0
        if active:
            return True, None
        reasons = {reason: count for reason, count in look.fallbacks.items() if count}
        named = [page.why_not for page in self._pages.values() if page.why_not is not None]
        counted = max(reasons, key=lambda reason: reasons[reason]) if reasons else None
        why_not = max(named, key=named.count) if named else counted
        # An engine that has had no occasion yet is not active either, and has no reason.
        return (False, why_not) if why_not is not None else (None, None)

    def _speed_up(self) -> float | None:
        """The mean over engines, each as much as it has generated."""
        known = [(page.speed_up, page.counts["generated"]) for page in self._pages.values() if page.speed_up]
        weight = sum(generated for _, generated in known)
        return sum(speed_up * generated for speed_up, generated in known) / weight if weight else None


def _sum(parts: Iterable[Mapping[str, float]]) -> defaultdict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, count in part.items():
            total[name] += count
    return total


def _since(now: Mapping[str, float], then: Mapping[str, float]) -> dict[str, float]:
    """What was counted in between; an engine that was started anew counts from zero."""
    if any(now.get(name, 0.0) < before for name, before in then.items()):
        return dict(now)
    return {name: count - then.get(name, 0.0) for name, count in now.items()}
