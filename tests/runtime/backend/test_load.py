"""Opening a packed model to serve it: what does not fit, or another release wrote, is refused, not guessed at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_checkpoints import PROMPT, write_checkpoint

from flash_api.config.engine import EngineConfig, EngineDraft
from flash_api.names import PACKED_MODEL
from flash_api.v1alpha1.engine import DraftMode
from flash_runtime.backend.load import draft_link, limits, load, speculation, warm_up
from flash_runtime.engine.batch import Batch
from flash_runtime.engine.loop import Engine
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.pack import pack
from flash_runtime.model.variants import PACK_VERSION
from flash_runtime.packed import PackedError, PackedFile, PackedWriter
from flash_runtime.wire import GenerateRequest, vocabulary_of


def config_for(folder: Path, *, active_experts: int | None = None, draft: EngineDraft | None = None) -> EngineConfig:
    return EngineConfig(
        served_model_name="tiny",
        source="file:///tiny",
        model_dir=str(folder),
        kv_cache_bytes=2**21,
        threads=1,
        active_experts=active_experts,
        draft=draft,
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


def answer(config: EngineConfig) -> tuple[list[int], int]:
    """Tokens of one greedy answer, and how many of them were proposed."""
    loaded = load(config)
    link = draft_link(config, loaded, clock=time.monotonic)
    drafts = speculation(config, loaded, clock=time.perf_counter, link=link)
    engine = Engine(loaded.provider, limits=limits(config), speculation=drafts)
    engine.add("a", list(PROMPT), GenerateRequest(max_tokens=40, ignore_eos=True))
    token_ids = []
    while engine.has_work:
        token_ids += [token for output in engine.step() for token in output.token_ids]
    return token_ids, engine.stats().accepted_tokens


def test_a_draft_of_any_kind_changes_no_token_of_an_answer(tmp_path: Path) -> None:
    target, small = packed_in(tmp_path / "target", "qwen3_moe"), packed_in(tmp_path / "small", "llama")
    plain, _ = answer(config_for(target))
    for draft in (
        EngineDraft(mode=DraftMode.OFF),
        EngineDraft(mode=DraftMode.PROMPT_LOOKUP, lookahead=4),
        EngineDraft(mode=DraftMode.IN_PROCESS, lookahead=4, model_dir=str(small)),
        EngineDraft(mode=DraftMode.IN_PROCESS, model_dir=str(small)),
        EngineDraft(mode=DraftMode.PODS, endpoints=("127.0.0.1:1",), rollout_revision="1"),
    ):
        assert answer(config_for(target, draft=draft))[0] == plain
    twin = EngineDraft(mode=DraftMode.IN_PROCESS, lookahead=4, model_dir=str(target))
    assert answer(config_for(target, draft=twin)) == (plain, 31), "39 tokens after the first, in steps of five"


def test_a_draft_with_another_tokenizer_is_refused_with_both_hashes(tmp_path: Path) -> None:
    target = packed_in(tmp_path / "target", "llama")
    folder = write_checkpoint(tmp_path / "other" / "checkpoint", "llama")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    pack(open_checkpoint(folder), tmp_path / "other" / PACKED_MODEL, variant="Lite", progress=lambda done, total: None)
    draft = EngineDraft(mode=DraftMode.IN_PROCESS, model_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"another tokenizer \(sha256 [0-9a-f]{64}\) than .* \([0-9a-f]{64}\)"):
        load(config_for(target, draft=draft))


def test_a_draft_inside_the_engine_needs_its_folder(tmp_path: Path) -> None:
    target = packed_in(tmp_path, "llama")
    with pytest.raises(ValueError, match=r"draft\.model_dir must be set when draft\.mode is InProcess"):
        load(config_for(target, draft=EngineDraft(mode=DraftMode.IN_PROCESS)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "endpoints must name at least one host:port when mode is Pods"),
        ({"endpoints": ("drafts:8001",)}, "rollout_revision must be set when mode is Pods"),
        ({"endpoints": ("drafts",), "rollout_revision": "1"}, r"endpoints \(drafts\) must be host:port"),
    ],
)
def test_draft_pods_are_named_with_their_revision(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EngineDraft(mode=DraftMode.PODS, **fields)
