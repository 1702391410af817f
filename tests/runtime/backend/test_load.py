"""What the engine refuses before it opens a model."""

from __future__ import annotations

import pytest

from flash_api.config.engine import EngineConfig
from flash_runtime.backend.load import load


def test_a_cache_larger_than_the_machines_memory_is_refused() -> None:
    pytest.importorskip("flash_runtime.kernels._native", reason="the native kernels are not built")
    config = EngineConfig(served_model_name="m", source="file:///m", model_dir="/nowhere", kv_cache_bytes=2**62)
    with pytest.raises(ValueError, match=r"^kv_cache_bytes \(4611686018427387904\) must not exceed .* \(\d+ bytes\)$"):
        load(config)
