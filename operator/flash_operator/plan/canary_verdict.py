"""Whether a revision has proved itself, from what became of its requests beside those of the former one. Pure.

Errors are compared by Fisher's exact test, one-sided: how likely is it that, of all the failures seen, so many fell on
the canary's requests by chance? Latencies are compared by the bounds between which each side's percentile lies with
three standard errors of its rank, so that no assumption is made on how latencies are distributed. The question is asked
again at every look, hence both bounds are far out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from flash_api.conditions import Reason
from flash_operator.plan.autoscale_load import SAMPLES_MIN, SHARE, Histogram, TrackReading

REQUESTS_DEFAULT: Final = 100
LATENCY_PERCENT_DEFAULT: Final = 130
SOAK_SECONDS: Final = 60.0
"""What only shows after a while, such as memory that is not given back, gets that while."""
CHANCE: Final = 0.001
"""Failures that are less likely than this to be chance are not taken for it."""
FAILURES_MIN: Final = 3
"""One broken stream is an accident."""
RANK_ERRORS: Final = 3.0
TTFT_FLOOR_SECONDS: Final = 0.02
"""Less than this no user feels, whatever the ratio."""
TPOT_FLOOR_SECONDS: Final = 0.005


class Decision(Enum):
    """What to do with a canary."""

    WAIT = "wait"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True)
class Verdict:
    """A decision and why."""

    decision: Decision
    reason: Reason = Reason.CANARY_RUNNING
    message: str = ""


@dataclass(frozen=True)
class Limits:
    """What a canary must do to be promoted, and what it must not do."""

    deadline_seconds: float
    requests: int = REQUESTS_DEFAULT
    latency_percent: int = LATENCY_PERCENT_DEFAULT


@dataclass(frozen=True)
class Evidence:
    """What was seen of both sides since all pods of the canary are ready."""

    seconds: float
    stable: TrackReading
    canary: TrackReading


def verdict(evidence: Evidence | None, limits: Limits, *, failure: str | None, elapsed_seconds: float) -> Verdict:
    """The verdict as of now. `failure` = why pods of the canary keep failing; no `evidence` = none of it could be seen.

    What speaks against a canary counts at once, what speaks for it only when there is enough of it.
    """
    if failure is not None:
        return Verdict(Decision.ROLL_BACK, Reason.CANARY_FAILING, f"Pods of the new revision fail: {failure}.")
    if evidence is not None:
        for found in (_errors(evidence), *_latencies(evidence, limits)):
            if found is not None:
                return found
        enough = evidence.canary.answered >= limits.requests and evidence.seconds >= SOAK_SECONDS
        if enough and evidence.stable.ttft.total >= SAMPLES_MIN:
            return Verdict(Decision.PROMOTE, Reason.CANARY_PROVED, _proof(evidence))
    if elapsed_seconds < limits.deadline_seconds:
        return Verdict(Decision.WAIT)
    return _too_late(evidence, limits)


def chance_of_failures(stable: TrackReading, canary: TrackReading) -> float:
    """How likely at least so many of all failures fall on the canary when both sides are equally good.

    The upper tail of the hypergeometric distribution.
    """
    good, failures = round(stable.answered + canary.answered), round(stable.failed + canary.failed)
    drawn, seen = round(canary.answered + canary.failed), round(canary.failed)
    total = good + failures
    ways = _log_choose(total, drawn)
    tail = (
        math.exp(_log_choose(failures, hits) + _log_choose(good, drawn - hits) - ways)
        for hits in range(max(seen, drawn - good), min(failures, drawn) + 1)
    )
    return min(1.0, math.fsum(tail))


def _errors(evidence: Evidence) -> Verdict | None:
    stable, canary = evidence.stable, evidence.canary
    if canary.failed < FAILURES_MIN:
        return None
    worse = canary.failed * (stable.answered + stable.failed) > stable.failed * (canary.answered + canary.failed)
    # Without a request on the other side there is no comparison; a side that answers hardly anything needs none.
    hopeless = canary.failed >= 10 and canary.failed > canary.answered and not stable.failed > stable.answered
    if not hopeless and not (worse and chance_of_failures(stable, canary) < CHANCE):
        return None
    message = f"It failed {_of(canary)}; the former revision failed {_of(stable)}."
    return Verdict(Decision.ROLL_BACK, Reason.CANARY_ERRORS, message)


def _latencies(evidence: Evidence, limits: Limits) -> tuple[Verdict | None, ...]:
    return tuple(
        _latency(name, stable, canary, limits.latency_percent, floor)
        for name, stable, canary, floor in (
            ("to the first token", evidence.stable.ttft, evidence.canary.ttft, TTFT_FLOOR_SECONDS),
            ("per further token", evidence.stable.tpot, evidence.canary.tpot, TPOT_FLOOR_SECONDS),
        )
    )


def _latency(name: str, stable: Histogram, canary: Histogram, percent: int, floor: float) -> Verdict | None:
    most, least = _bound(stable, +RANK_ERRORS), _bound(canary, -RANK_ERRORS)
    if most is None or least is None or least <= max(most * percent / 100, most + floor):
        return None
    usual, found = stable.quantile(), canary.quantile()
    assert usual is not None
    assert found is not None
    figures = f"{_milliseconds(found.estimate)} ms instead of {_milliseconds(usual.estimate)} ms (p90)"
    message = f"It needs {figures} {name}; {percent} % of the former revision's would be allowed."
    return Verdict(Decision.ROLL_BACK, Reason.CANARY_SLOWER, message)


def _bound(found: Histogram, errors: float) -> float | None:
    """The percentile, so many standard errors of its rank up or down; None with too few observations."""
    if found.total < SAMPLES_MIN:
        return None
    share = SHARE + errors * math.sqrt(SHARE * (1 - SHARE) / found.total)
    bound = found.quantile(min(1.0, max(0.0, share)))
    return None if bound is None else bound.estimate


def _proof(evidence: Evidence) -> str:
    stable, canary = evidence.stable, evidence.canary
    said = f"It answered {round(canary.answered)} requests and failed {round(canary.failed)}"
    usual, found = stable.ttft.quantile(), canary.ttft.quantile()
    if usual is None or found is None:
        return f"{said}."
    return f"{said}; p90 TTFT {_milliseconds(found.estimate)} ms, before {_milliseconds(usual.estimate)} ms."


def _too_late(evidence: Evidence | None, limits: Limits) -> Verdict:
    seconds = f"{limits.deadline_seconds:g} s"
    if evidence is None:
        message = f"Within {seconds} its pods were not all ready, or no gateway could be asked how they do."
    else:
        beside = f"{round(evidence.stable.answered)} of the former revision"
        answered = round(evidence.canary.answered)
        message = f"Within {seconds} it answered {answered} of {limits.requests} requests, beside {beside}."
    return Verdict(Decision.ROLL_BACK, Reason.CANARY_INCONCLUSIVE, message)


def _of(side: TrackReading) -> str:
    return f"{round(side.failed)} of {round(side.answered + side.failed)} requests"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
