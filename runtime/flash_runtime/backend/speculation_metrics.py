"""What proposals are worth to an engine, on tritonserver's metrics endpoint.

Only the deliveries' thread calls this: see `backend.metrics`. Histograms are published as their buckets' counters, a
sum of many calls at once: an update of one metric costs a round trip to the server.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

import triton_python_backend_utils as pb

from flash_runtime.engine.proposals import Fallback
from flash_runtime.engine.record import LATENCY_BUCKETS, PROMPT_BUCKETS, SpeculationStats

_PROMPTS: Final = (*(f"to {most}" for most in PROMPT_BUCKETS), f"over {PROMPT_BUCKETS[-1]}")


class Series:
    """The metrics of one family, by the values of one label."""

    def __init__(
        self, name: str, description: str, served_model_name: str, *, is_counter: bool, label: str = ""
    ) -> None:
        kind = pb.MetricFamily.COUNTER if is_counter else pb.MetricFamily.GAUGE
        self._family = pb.MetricFamily(name=name, description=description, kind=kind)
        self._labels = {"model": served_model_name}
        self._label = label
        self._is_counter = is_counter
        self._metrics: dict[str, Any] = {}
        self._told: dict[str, float] = {}

    def publish(self, value: float, of: str = "") -> None:
        """Bring the metric with this label value up to date; a new one begins."""
        if of not in self._metrics:
            labels = {**self._labels, self._label: of} if self._label else self._labels
            self._metrics[of] = self._family.Metric(labels=labels)
            self._told[of] = 0.0
        told = self._told[of]
        if value == told:
            return
        if self._is_counter:
            self._metrics[of].increment(value - told)
        else:
            self._metrics[of].set(value)
        self._told[of] = value

    def close(self) -> None:
        """Metrics before their family: otherwise the process crashes on its way out."""
        self._metrics.clear()
        del self._family


class SpeculationMetrics:
    """Everything of SpeculationStats."""

    def __init__(self, served_model_name: str) -> None:
        def series(name: str, description: str, *, is_counter: bool = True, label: str = "") -> Series:
            return Series(
                f"flash_engine_draft_{name}", description, served_model_name, is_counter=is_counter, label=label
            )

        self._active = series("active", "Whether proposals were verified lately", is_counter=False)
        self._inactive = series(
            "inactive", "Why most requests got no proposals lately, while not active", is_counter=False, label="reason"
        )
        self._speed_up = series(
            "speed_up", "Tokens per second lately over what plain steps would have made", is_counter=False
        )
        self._proposed = series("proposed_tokens_total", "Proposed tokens that were verified", label="prompt_tokens")
        self._accepted = series("accepted_tokens_total", "Proposed tokens that held", label="prompt_tokens")
        self._buckets = series("proposal_seconds_bucket", "Calls of the proposer, by how long they took", label="le")
        self._count = series("proposal_seconds_count", "Calls of the proposer")
        self._sum = series("proposal_seconds_sum", "Seconds of all calls of the proposer")
        self._all = (
            *(self._active, self._inactive, self._speed_up, self._proposed, self._accepted),
            *(self._buckets, self._count, self._sum),
        )

    def publish(self, stats: SpeculationStats) -> None:
        """Bring every metric up to date."""
        self._active.publish(float(stats.is_active))
        for reason in Fallback:
            self._inactive.publish(float(reason is stats.inactive_reason), reason)
        self._speed_up.publish(stats.speed_up)
        for prompts, (proposed, accepted) in zip(_PROMPTS, stats.by_prompt, strict=True):
            self._proposed.publish(proposed, prompts)
            self._accepted.publish(accepted, prompts)
        for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), accumulate(stats.latencies), strict=True):
            self._buckets.publish(count, bound)
        self._count.publish(sum(stats.latencies))
        self._sum.publish(stats.latency_seconds)

    def close(self) -> None:
        """Let go."""
        for series in self._all:
            series.close()
