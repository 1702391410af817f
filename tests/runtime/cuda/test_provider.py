"""Whole steps of every tiny checkpoint against the NumPy reference on the same packed file, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import CONFIGS, PROMPT, VOCAB_SIZE, write_checkpoint

from flash_runtime.engine.batch import Batch
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.pack import pack
from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.reference import PackedWeights, ReferenceProvider
from flash_runtime.packed import PackedFile

torch = pytest.importorskip("torch", reason="torch is not installed (make gpu-test)")
pytest.importorskip("triton", reason="triton-lang is not installed (make gpu-test)")

from flash_runtime.kernels.cuda.provider import CudaProvider  # noqa: E402

BLOCK_SIZE = 4
NUM_BLOCKS = 40
ROUTED_KINDS = {"qwen3_moe", "qwen3_moe_window", "qwen2_moe", "olmoe", "mixtral", "granite_moe"}
"""Where rounding may send a token to another expert; each has a sibling whose experts all take part."""
ROUNDING = 1e-5
"""Relative error of a row when both sides round every activation to the same integer. Measured: below 1e-6."""
ONE_INTEGER_OFF = 0.06
"""The same once an activation on the border of two integers went the other way. Measured: up to 0.021."""
BF16_CACHE = 0.08
"""The same with keys and values rounded to bf16. Measured: 0.003 to 0.042."""


@pytest.fixture(scope="module")
def packed_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Packed tiny checkpoints by kind, each written once."""
    written: dict[str, PackedFile] = {}

    def packed(kind: str) -> PackedFile:
        if kind not in written:
            folder = tmp_path_factory.mktemp(kind)
            checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", kind))
            pack(checkpoint, folder / "model.flash", variant="Lite", progress=lambda done, total: None)
            written[kind] = PackedFile.open(folder / "model.flash")
        return written[kind]

    return packed


@pytest.fixture(scope="module")
def cuda(device: str) -> Any:
    """A provider with room for NUM_BLOCKS blocks."""

    def make(packed: PackedFile, **changes: Any) -> CudaProvider:
        arguments = {"kv_cache_bytes": 2**21, "block_size": BLOCK_SIZE, "cache_dtype": "float32", **changes}
        return CudaProvider(packed, device=device, **arguments)

    return make


def reference_provider(packed: PackedFile) -> ReferenceProvider:
    plan = ModelPlan.from_json(packed.header["model"])
    return ReferenceProvider(plan, PackedWeights(packed, plan), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)


def ints(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def piece(token_ids: Any, start: int) -> Batch:
    """The next tokens of one sequence, over blocks that lie backwards in the cache; logits of each."""
    count = len(token_ids)
    return Batch(
        token_ids=ints(token_ids),
        positions=np.arange(start, start + count, dtype=np.int32),
        query_starts=ints([0, count]),
        block_tables=np.arange(NUM_BLOCKS - 1, -1, -1, dtype=np.int32)[None, :],
        logit_rows=np.arange(count, dtype=np.int32),
    )


def prompts(count: int, length: int) -> Batch:
    """So many short prompts, each in a block of its own; logits of the last token of each."""
    ids = np.random.default_rng(count).integers(0, VOCAB_SIZE, count * length)
    ends = np.arange(0, count * length + 1, length)
    return Batch(
        token_ids=ints(ids),
        positions=ints(np.tile(np.arange(length), count)),
        query_starts=ints(ends),
        block_tables=np.stack([np.arange(count), np.full(count, -1)], axis=1).astype(np.int32),
        logit_rows=ints(ends[1:] - 1),
    )


def in_pieces(provider: CudaProvider) -> np.ndarray:
    """Logits of PROMPT, fed as a chunk, a single token and another chunk."""
    return np.concatenate([provider.step(piece(PROMPT[a:b], a)).logits for a, b in pairwise([0, 7, 8, 16])])


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Norm of each row's error over that of the row."""
    relative: np.ndarray = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return relative


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_short_prompts_agree_to_the_rounding_of_floats(kind: str, packed_files: Any, cuda: Any) -> None:
    packed, batch = packed_files(kind), prompts(count=8, length=3)
    relative = errors(cuda(packed).step(batch).logits, reference_provider(packed).step(batch).logits)
    # A prompt with an activation on the border of two integers may differ; most have none.
    assert np.median(relative) <= ROUNDING


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - ROUTED_KINDS))
def test_a_prompt_in_pieces_follows_the_reference(kind: str, packed_files: Any, cuda: Any) -> None:
    packed = packed_files(kind)
    expected = reference_provider(packed).step(piece(PROMPT, 0)).logits
    assert errors(in_pieces(cuda(packed)), expected).max() <= ONE_INTEGER_OFF


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe_all"])
def test_keys_and_values_in_bf16_cost_little(kind: str, packed_files: Any, cuda: Any) -> None:
    packed = packed_files(kind)
    expected = reference_provider(packed).step(piece(PROMPT, 0)).logits
    found = in_pieces(cuda(packed, cache_dtype="bfloat16"))
    assert ROUNDING < errors(found, expected).max() <= BF16_CACHE


def test_only_the_wanted_rows_come_back_in_their_order(packed_files: Any, cuda: Any) -> None:
    packed, whole = packed_files("qwen2_moe"), piece(PROMPT, 0)
    every = cuda(packed).step(whole).logits
    some = cuda(packed).step(replace(whole, logit_rows=ints([15, 3]))).logits
    np.testing.assert_allclose(some, every[[15, 3]], rtol=1e-4, atol=1e-4)
    none = cuda(packed).step(replace(whole, logit_rows=ints([]))).logits
    assert none.shape == (0, VOCAB_SIZE)


def test_fewer_active_experts_change_the_answer_as_they_change_the_references(packed_files: Any, cuda: Any) -> None:
    packed, batch = packed_files("mixtral"), prompts(count=8, length=3)
    plan = ModelPlan.from_json(packed.header["model"]).with_active_experts(1)
    reference = ReferenceProvider(plan, PackedWeights(packed, plan), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    found = cuda(packed, active_experts=1).step(batch).logits
    assert np.median(errors(found, reference.step(batch).logits)) <= ROUNDING
    assert errors(found, cuda(packed).step(batch).logits).min() > 0.01


def test_an_index_out_of_range_is_refused_before_anything_is_computed(packed_files: Any, cuda: Any) -> None:
    provider = cuda(packed_files("llama"))
    with pytest.raises(ValueError, match=rf"token_ids \({VOCAB_SIZE}\) must lie in 0..{VOCAB_SIZE - 1}"):
        provider.step(piece([VOCAB_SIZE], 0))


def test_a_cache_without_room_for_a_block_names_the_bytes_it_needs(packed_files: Any, cuda: Any) -> None:
    # 3 layers of keys and values, 4 tokens, 2 heads of 16 features, 4 bytes each
    with pytest.raises(ValueError, match=r"kv_cache_bytes \(3071\) must be at least 3072: one block of 4 tokens"):
        cuda(packed_files("llama"), kv_cache_bytes=3071)
    assert cuda(packed_files("llama"), kv_cache_bytes=3072 * 3 - 1).num_blocks == 2


def test_another_variant_is_refused(packed_files: Any, cuda: Any) -> None:
    packed = packed_files("llama")
    cloud = copy.copy(packed)
    cloud.header = {**packed.header, "variant": "Cloud"}
    with pytest.raises(ValueError, match="variant is Cloud, the `cuda` provider runs Lite"):
        cuda(cloud)


def test_a_model_with_bf16_linears_is_refused_with_the_remedy(packed_files: Any, cuda: Any) -> None:
    packed = packed_files("llama")
    wide = copy.copy(packed)
    wide.header = {**packed.header, "model": {**packed.header["model"], "wide": ["layers.0.down"]}}
    with pytest.raises(
        ValueError, match=r"linears of it are bf16 \(wide\), the `cuda` provider runs int8; pack it without"
    ):
        cuda(wide)


def test_a_missing_blob_is_named(packed_files: Any, cuda: Any) -> None:
    packed = packed_files("llama")
    damaged = copy.copy(packed)
    damaged.blobs = {name: blob for name, blob in packed.blobs.items() if not name.endswith("down.scale")}
    with pytest.raises(ValueError, match=r"blob '.*down.scale' is missing, expected float32 of 96 elements"):
        cuda(damaged)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_to_be_missing(packed_files: Any) -> None:
    with pytest.raises(ValueError, match=r"device \(cuda\): torch finds no CUDA GPU here"):
        CudaProvider(packed_files("llama"), kv_cache_bytes=2**20)
