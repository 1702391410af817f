"""The engine's configuration for a benchmark: options {model_dir, threads, kv_cache_bytes, max_running}."""

from __future__ import annotations

from typing import Any

from flash_api.config.engine import EngineConfig


def engine_config(options: dict[str, Any]) -> EngineConfig:
    """What both forms of our engine run with, alone and inside the server."""
    return EngineConfig(
        served_model_name="bench",
        source="file:///bench",
        model_dir=options["model_dir"],
        threads=options["threads"],
        kv_cache_bytes=options["kv_cache_bytes"],
        max_concurrent_requests=options["max_running"],
    )
