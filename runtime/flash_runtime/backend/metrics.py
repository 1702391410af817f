"""The engine's own numbers on tritonserver's metrics endpoint.

tritonserver's queue and compute metrics do not see a decoupled stream: it counts as done when it has been queued. These
do. Updating one metric from two threads crashes the server, so only the deliveries' thread calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb

from flash_runtime.backend.experts import Counts, has_series, skews
from flash_runtime.backend.speculation_metrics import SpeculationMetrics
from flash_runtime.engine.loop import EngineStats
from flash_runtime.engine.proposals import Fallback


@dataclass(frozen=True)
class Metric:
    """One number of a stats object."""

    field: str
    name: str
    description: str
    is_counter: bool


_METRICS: Final = (
    Metric("running", "flash_engine_requests_running", "Requests that share the engine's steps", False),
    Metric("waiting", "flash_engine_requests_waiting", "Requests that wait for a place or for memory", False),
    Metric("kv_blocks_used", "flash_engine_kv_blocks_used", "KV cache blocks held by requests", False),
    Metric("kv_blocks_total", "flash_engine_kv_blocks", "KV cache blocks", False),
    Metric("steps", "flash_engine_steps_total", "Batches computed", True),
    Metric("prompt_tokens", "flash_engine_prompt_tokens_total", "Prompt tokens taken in", True),
    Metric(
        "cached_prompt_tokens",
        "flash_engine_cached_prompt_tokens_total",
        "Prompt tokens whose keys and values were found in the cache",
        True,
    ),
    Metric("generated_tokens", "flash_engine_generated_tokens_total", "Tokens generated", True),
    Metric(
        "answers",
        "flash_engine_sequence_steps_total",
        "Times a request got tokens of a step; generated tokens over this = tokens per step",
        True,
    ),
    Metric("proposed_tokens", "flash_engine_proposed_tokens_total", "Proposed tokens that were verified", True),
    Metric("accepted_tokens", "flash_engine_accepted_tokens_total", "Proposed tokens that held", True),
    Metric("preemptions", "flash_engine_preemptions_total", "Requests set back for lack of KV cache memory", True),
)


_FALLBACKS: Final = ("flash_engine_draft_fallbacks_total", "Times a request got no proposals in a step, or not all")
_SKEW: Final = ("flash_engine_expert_skew", "Tokens of a layer's busiest expert over the mean of its experts; 1 = even")
_GIVEN: Final = ("flash_engine_expert_tokens_total", "Tokens given to an expert")
_UPDATES: Final = 32
"""Of experts' metrics, how many are brought up to date at once: each costs a round trip of about 0.1 ms."""


class ExpertMetrics:
    """A skew for each layer and, where experts are few enough, a counter for each. In turn, a few at a time."""

    def __init__(self, served_model_name: str, load: Counts) -> None:
        self._skew = pb.MetricFamily(name=_SKEW[0], description=_SKEW[1], kind=pb.MetricFamily.GAUGE)
        self._tokens = pb.MetricFamily(name=_GIVEN[0], description=_GIVEN[1], kind=pb.MetricFamily.COUNTER)
        labels = [{"model": served_model_name, "layer": str(layer)} for layer in range(len(load))]
        self._skews = [self._skew.Metric(labels=one) for one in labels]
        self._counters = [
            self._tokens.Metric(labels={**one, "expert": str(expert)})
            for one in (labels if has_series(load) else ())
            for expert in range(load.shape[1])
        ]
        self._told = np.zeros(len(self._skews) + len(self._counters))
        self._next = 0

    def publish(self, load: Counts, *, everything: bool) -> None:
        """Bring the next few metrics up to date, or all."""
        values = np.concatenate([skews(load), load.reshape(-1)[: len(self._counters)].astype(np.float64)])
        total = len(values)
        num_updates = total if everything else min(_UPDATES, total)
        for index in (np.arange(self._next, self._next + num_updates) % total).tolist():
            if values[index] == self._told[index]:
                continue
            if index < len(self._skews):
                self._skews[index].set(values[index])
            else:
                self._counters[index - len(self._skews)].increment(values[index] - self._told[index])
            self._told[index] = values[index]
        self._next = (self._next + num_updates) % total

    def close(self) -> None:
        """Metrics before families, as below."""
        self._skews.clear()
        self._counters.clear()
        del self._skew, self._tokens


class FallbackMetrics:
    """A counter for each reason why proposals were missing."""

    def __init__(self, served_model_name: str) -> None:
        self._family = pb.MetricFamily(name=_FALLBACKS[0], description=_FALLBACKS[1], kind=pb.MetricFamily.COUNTER)
        self._told = dict.fromkeys(map(str, Fallback), 0)
        self._counters = {
            reason: self._family.Metric(labels={"model": served_model_name, "reason": reason}) for reason in self._told
        }

    def publish(self, fallbacks: Iterable[tuple[str, int]]) -> None:
        """Bring those that changed up to date."""
        for reason, count in fallbacks:
            if count != self._told[reason]:
                self._counters[reason].increment(count - self._told[reason])
                self._told[reason] = count

    def close(self) -> None:
        """Metrics before their family, as below."""
        self._counters.clear()
        del self._family


class MetricTable:
    """A metric for each of some fields. Families must outlive their metrics, so both are kept."""

    def __init__(self, metrics: Sequence[Metric], served_model_name: str) -> None:
        self._rows = metrics
        self._families: list[Any] = []
        self._metrics: list[Any] = []
        self._values = [0.0] * len(metrics)
        for metric in metrics:
            kind = pb.MetricFamily.COUNTER if metric.is_counter else pb.MetricFamily.GAUGE
            family = pb.MetricFamily(name=metric.name, description=metric.description, kind=kind)
            self._families.append(family)
            self._metrics.append(family.Metric(labels={"model": served_model_name}))

    def publish(self, stats: object) -> None:
        """Bring every metric up to date; each changed one costs a round trip to the server."""
        for index, metric in enumerate(self._rows):
            value = getattr(stats, metric.field)
            if value != self._values[index]:
                if metric.is_counter:
                    self._metrics[index].increment(value - self._values[index])
                else:
                    self._metrics[index].set(value)
                self._values[index] = value

    def close(self) -> None:
        """Metrics before families: otherwise the process crashes on its way out."""
        self._metrics.clear()
        self._families.clear()


class EngineMetrics:
    """All metrics of one engine."""

    def __init__(self, served_model_name: str, expert_load: Callable[[], Counts | None], *, proposes: bool) -> None:
        """`proposes`: whether the engine has a proposer."""
        self._expert_load = expert_load
        load = expert_load()
        self._experts = None if load is None else ExpertMetrics(served_model_name, load)
        self._fallbacks = FallbackMetrics(served_model_name)
        self._speculation = SpeculationMetrics(served_model_name) if proposes else None
        self._table = MetricTable(_METRICS, served_model_name)

    def publish(self, stats: EngineStats) -> None:
        """Bring every metric up to date."""
        self._table.publish(stats)
        self._fallbacks.publish(stats.fallbacks)
        if self._speculation is not None and stats.speculation is not None:
            self._speculation.publish(stats.speculation)
        if self._experts is not None and (load := self._expert_load()) is not None:
            self._experts.publish(load, everything=stats.running == 0)

    def close(self) -> None:
        """Let go, in the order that each asks for."""
        if self._experts is not None:
            self._experts.close()
        self._fallbacks.close()
        if self._speculation is not None:
            self._speculation.close()
        self._table.close()
