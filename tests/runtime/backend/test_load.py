"""Opening a packed model to serve it: what does not fit, or another release wrote, is refused, not guessed at."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_checkpoint

from flash_api.config.engine import EngineConfig
from flash_api.names import PACKED_MODEL
from flash_runtime.backend.load import load, warm_up
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.pack import pack
from flash_runtime.model.variants import PACK_VERSION
from flash_runtime.packed import PackedError, PackedWriter


def config_for(folder: Path) -> EngineConfig:
    return EngineConfig(
        served_model_name="tiny", source="file:///tiny", model_dir=str(folder), kv_cache_bytes=2**21, threads=1
    )


def test_what_this_release_packs_it_serves(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", "olmoe"))
    pack(checkpoint, tmp_path / PACKED_MODEL, variant="Lite", progress=lambda done, total: None)
    loaded = load(config_for(tmp_path))
    warm_up(loaded.provider)
    assert loaded.provider.vocab_size == 264


def test_a_model_packed_by_another_release_is_refused_with_both_versions(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / PACKED_MODEL) as writer:
        writer.set_header({"pack_version": PACK_VERSION - 1, "model": {}})
    with pytest.raises(
        PackedError, match=r"model\.flash: pack_version is 1, this release runs 2; pull the model again"
    ):
        load(config_for(tmp_path))


def test_a_cache_larger_than_the_machines_memory_is_refused() -> None:
    config = EngineConfig(served_model_name="m", source="file:///m", model_dir="/nowhere", kv_cache_bytes=2**62)
    with pytest.raises(ValueError, match=r"^kv_cache_bytes \(4611686018427387904\) must not exceed .* \(\d+ bytes\)$"):
        load(config)
