"""Opening a packed model to serve it: what does not fit, or another release wrote, is refused, not guessed at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_checkpoints import write_checkpoint

from flash_api.config.engine import EngineConfig
from flash_api.names import PACKED_MODEL
from flash_runtime.backend.load import load, warm_up
from flash_runtime.engine.batch import Batch
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.pack import pack
from flash_runtime.model.variants import PACK_VERSION
from flash_runtime.packed import PackedError, PackedFile, PackedWriter
from flash_runtime.wire import vocabulary_of


def config_for(folder: Path, *, active_experts: int | None = None) -> EngineConfig:
    return EngineConfig(
        served_model_name="tiny",
        source="file:///tiny",
        model_dir=str(folder),
        kv_cache_bytes=2**21,
        threads=1,
        active_experts=active_experts,
    )


def packed_in(folder: Path, kind: str, **changes: int) -> Path:
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", kind, changes=changes))
    pack(checkpoint, folder / PACKED_MODEL, variant="Lite", progress=lambda done, total: None)
    return folder


def logits(config: EngineConfig) -> NDArray[np.float32]:
    count = 12
    return (
        load(config)
        .provider.step(
            Batch(
                token_ids=np.arange(count, dtype=np.int32),
                positions=np.arange(count, dtype=np.int32),
                query_starts=np.array([0, count], dtype=np.int32),
                block_tables=np.zeros((1, 1), dtype=np.int32),
                logit_rows=np.arange(count, dtype=np.int32),
            )
        )
        .logits
    )


def test_what_this_release_packs_it_serves(tmp_path: Path) -> None:
    loaded = load(config_for(packed_in(tmp_path, "olmoe")))
    warm_up(loaded.provider)
    assert loaded.provider.vocab_size == 264
    packed = PackedFile.open(tmp_path / PACKED_MODEL)
    assert loaded.vocabulary == vocabulary_of(packed.text_bytes("tokenizer.json"))


def test_a_model_packed_by_another_release_is_refused_with_both_versions(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / PACKED_MODEL) as writer:
        writer.set_header({"pack_version": PACK_VERSION - 1, "model": {}})
    with pytest.raises(
        PackedError, match=r"model\.flash: pack_version is 2, this release runs 3; pull the model again"
    ):
        load(config_for(tmp_path))


def test_a_cache_larger_than_the_machines_memory_is_refused() -> None:
    config = EngineConfig(served_model_name="m", source="file:///m", model_dir="/nowhere", kv_cache_bytes=2**62)
    with pytest.raises(ValueError, match=r"^kv_cache_bytes \(4611686018427387904\) must not exceed .* \(\d+ bytes\)$"):
        load(config)


def test_active_experts_replaces_the_models_own_number(tmp_path: Path) -> None:
    own = packed_in(tmp_path / "own", "olmoe")
    sparser = packed_in(tmp_path / "sparser", "olmoe", num_experts_per_tok=1)
    assert np.array_equal(logits(config_for(own, active_experts=1)), logits(config_for(sparser)))
    assert not np.array_equal(logits(config_for(own)), logits(config_for(sparser)))


@pytest.mark.parametrize(
    ("kind", "active_experts", "said"),
    [
        ("olmoe", 64, r"^active_experts \(64\) must be from 1 to the \d+ experts that this model has$"),
        ("llama", 2, r"^active_experts \(2\) is for mixture-of-experts models, this one is dense: remove it$"),
    ],
)
def test_active_experts_that_the_model_has_not_are_refused(
    tmp_path: Path, kind: str, active_experts: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        load(config_for(packed_in(tmp_path, kind), active_experts=active_experts))
