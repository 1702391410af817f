"""A draft's numbers on tritonserver's metrics endpoint. Only the draft's thread calls this: see `backend.metrics`."""

from __future__ import annotations

from typing import Final

from flash_runtime.backend.metrics import Metric, MetricTable
from flash_runtime.engine.draft_server import DraftStats

_METRICS: Final = (
    Metric("streams", "flash_draft_streams", "Engines that are connected", False),
    Metric("sequences", "flash_draft_sequences", "Requests whose tokens it keeps", False),
    Metric("kv_blocks_used", "flash_draft_kv_blocks_used", "KV cache blocks held by requests", False),
    Metric("kv_blocks_total", "flash_draft_kv_blocks", "KV cache blocks", False),
    Metric("steps", "flash_draft_steps_total", "Batches computed", True),
    Metric("step_seconds", "flash_draft_step_seconds_total", "What they took", True),
    Metric("asks", "flash_draft_asks_total", "Messages of engines, each about some requests", True),
    Metric("proposed_tokens", "flash_draft_proposed_tokens_total", "Tokens proposed in answers", True),
    Metric("ahead_tokens", "flash_draft_ahead_tokens_total", "Tokens guessed while engines verified, and sent", True),
    Metric("refused_sequences", "flash_draft_refused_sequences_total", "Requests there was no room for", True),
)


class DraftMetrics:
    """All metrics of one draft."""

    def __init__(self, served_model_name: str) -> None:
        self._table = MetricTable(_METRICS, served_model_name)

    def publish(self, stats: DraftStats) -> None:
        """Bring every metric up to date."""
        self._table.publish(stats)

    def close(self) -> None:
        """Let go."""
        self._table.close()
