"""The engine's own numbers on tritonserver's metrics endpoint.

tritonserver's queue and compute metrics do not see a decoupled stream: it counts as done when it has been queued. These
do. Updating one metric from two threads crashes the server, so only the engine's thread calls this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import triton_python_backend_utils as pb

from flash_runtime.engine.loop import EngineStats


@dataclass(frozen=True)
class _Metric:
    field: str
    name: str
    description: str
    is_counter: bool


_METRICS: Final = (
    _Metric("running", "flash_engine_requests_running", "Requests that share the engine's steps", False),
    _Metric("waiting", "flash_engine_requests_waiting", "Requests that wait for a place or for memory", False),
    _Metric("kv_blocks_used", "flash_engine_kv_blocks_used", "KV cache blocks held by requests", False),
    _Metric("kv_blocks_total", "flash_engine_kv_blocks", "KV cache blocks", False),
    _Metric("steps", "flash_engine_steps_total", "Batches computed", True),
    _Metric("prompt_tokens", "flash_engine_prompt_tokens_total", "Prompt tokens taken in", True),
    _Metric(
        "cached_prompt_tokens",
        "flash_engine_cached_prompt_tokens_total",
        "Prompt tokens whose keys and values were found in the cache",
        True,
    ),
    _Metric("generated_tokens", "flash_engine_generated_tokens_total", "Tokens generated", True),
    _Metric("preemptions", "flash_engine_preemptions_total", "Requests set back for lack of KV cache memory", True),
)


class EngineMetrics:
    """All metrics of one engine. Families must outlive their metrics, so both are kept."""

    def __init__(self, served_model_name: str) -> None:
        self._families: list[Any] = []
        self._metrics: list[Any] = []
        self._values = [0] * len(_METRICS)
        for metric in _METRICS:
            kind = pb.MetricFamily.COUNTER if metric.is_counter else pb.MetricFamily.GAUGE
            family = pb.MetricFamily(name=metric.name, description=metric.description, kind=kind)
            self._families.append(family)
            self._metrics.append(family.Metric(labels={"model": served_model_name}))

    def publish(self, stats: EngineStats) -> None:
        """Bring every metric up to date; each changed one costs a round trip to the server."""
        for index, metric in enumerate(_METRICS):
            value = getattr(stats, metric.field)
            if value != self._values[index]:
                if metric.is_counter:
                    self._metrics[index].increment(value - self._values[index])
                else:
                    self._metrics[index].set(value)
                self._values[index] = value

    def close(self) -> None:
        """Let go, metrics before families: otherwise the process crashes on its way out."""
        self._metrics.clear()
        self._families.clear()
