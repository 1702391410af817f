"""The reference provider computes what transformers computes: logits against committed goldens, no torch needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import CONFIGS, VOCAB_SIZE, write_checkpoint

from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.families import recipe
from flash_runtime.model.pack import pack
from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.reference import CheckpointWeights, PackedWeights, ReferenceProvider
from flash_runtime.model.variants import VARIANTS
from flash_runtime.packed import PackedFile

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
LOGITS_TOLERANCE = 1e-3
RELATIVE_ERROR = {("Cloud", False): 0.025, ("Lite", False): 0.06, ("Nano", False): 0.5} | {
    ("Lite", True): 0.07,
    ("Nano", True): 0.5,
}
"""Norm of a position's error over that of its logits, by variant and whether it is rotated. Random weights are the
hardest case, most of all for int4, which lives on weights that are not evenly spread. These are uniform, without any
outliers, and rotating makes them less even. Measured: at most 0.016, 0.046, 0.41, 0.058 and 0.39."""
SAME_ARGMAX = {("Cloud", False): 0.9, ("Lite", False): 0.85, ("Nano", False): 0.45} | {
    ("Lite", True): 0.8,
    ("Nano", True): 0.4,
}
"""Share of positions with the same most likely token. Measured: at least 0.94, 0.87, 0.5, 0.81 and 0.43."""
ROUTED_KINDS = {"qwen3_moe", "qwen3_moe_window", "qwen2_moe", "olmoe", "mixtral", "granite_moe"}
"""Where rounding may send a token to another expert; each has a sibling whose experts all take part."""
KERNELS_RELATIVE_ERROR = {"Cloud": 0.025, "Lite": 0.06, "Nano": 0.06}
"""The same between kernels and reference, which keeps keys and values in float32. Measured: at most 0.017 and 0.043."""
BLOCK_SIZE = 4


@pytest.fixture(params=sorted(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def golden(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [T] and logits [T, V]."""
    with np.load(GOLDEN / f"{kind}.npz") as arrays:
        return arrays["token_ids"], arrays["logits"]


@pytest.fixture
def checkpoint(kind: str, tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path / "checkpoint", kind))


def float_provider(checkpoint: Checkpoint) -> ReferenceProvider:
    sources = recipe(checkpoint)
    return ReferenceProvider(sources.plan, CheckpointWeights(checkpoint, sources), num_blocks=16, block_size=BLOCK_SIZE)


def packed_provider(
    checkpoint: Checkpoint, folder: Path, variant: str, *, rotate: bool | None = None
) -> ReferenceProvider:
    pack(checkpoint, folder / "model.flash", variant=variant, rotate=rotate, progress=lambda done, total: None)
    packed = PackedFile.open(folder / "model.flash")
    plan = ModelPlan.from_json(packed.header["model"])
    return ReferenceProvider(plan, PackedWeights(packed, plan), num_blocks=16, block_size=BLOCK_SIZE)


def logits_of(provider: Provider, token_ids: np.ndarray, *, chunks: list[int], first_block: int = 0) -> np.ndarray:
    """Logits [T, V] of one sequence, fed in chunks over blocks that lie backwards in the cache."""
    blocks = np.arange(provider.num_blocks - 1 - first_block, -1, -1, dtype=np.int32)[None, :]
    rows, start = [], 0
    for length in chunks:
        batch = Batch(
            token_ids=token_ids[start : start + length],
            positions=np.arange(start, start + length, dtype=np.int32),
            query_starts=np.array([0, length], dtype=np.int32),
            block_tables=blocks,
            logit_rows=np.arange(length, dtype=np.int32),
        )
        rows.append(provider.step(batch).logits)
        start += length
    assert start == len(token_ids)
    return np.concatenate(rows)


def test_float_logits_equal_those_of_transformers(
    golden: tuple[np.ndarray, np.ndarray], checkpoint: Checkpoint
) -> None:
    token_ids, expected = golden
    found = logits_of(float_provider(checkpoint), token_ids, chunks=[16])
    assert np.abs(found - expected).max() <= LOGITS_TOLERANCE


def test_feeding_a_prompt_in_chunks_changes_nothing(
    golden: tuple[np.ndarray, np.ndarray], checkpoint: Checkpoint
) -> None:
    token_ids, expected = golden
    found = logits_of(float_provider(checkpoint), token_ids, chunks=[5, 1, 3, 7])
    assert np.abs(found - expected).max() <= LOGITS_TOLERANCE


@pytest.mark.parametrize(("variant", "rotate"), sorted(RELATIVE_ERROR))
@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - ROUTED_KINDS))
def test_logits_of_every_variant_stay_close_to_those_of_transformers(
    golden: tuple[np.ndarray, np.ndarray], checkpoint: Checkpoint, tmp_path: Path, variant: str, rotate: bool
) -> None:
    token_ids, expected = golden
    found = logits_of(packed_provider(checkpoint, tmp_path, variant, rotate=rotate), token_ids, chunks=[16])
    errors = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)  # [T]
    assert errors.max() <= RELATIVE_ERROR[variant, rotate]
    same = (found.argmax(-1) == expected.argmax(-1)).mean()
    assert same >= SAME_ARGMAX[variant, rotate]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - ROUTED_KINDS))
def test_the_kernels_follow_the_reference_on_the_same_packed_file(
    checkpoint: Checkpoint, tmp_path: Path, variant: str
) -> None:
    token_ids = np.random.default_rng(5).integers(0, VOCAB_SIZE, 40).astype(np.int32)
    expected = logits_of(packed_provider(checkpoint, tmp_path, variant), token_ids, chunks=[40])
    kernels = CpuProvider(PackedFile.open(tmp_path / "model.flash"), kv_cache_bytes=2**20, threads=1)
    found = logits_of(kernels, token_ids, chunks=[17, 1, 22])
    errors = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)  # [T]
    assert errors.max() <= KERNELS_RELATIVE_ERROR[variant]


def test_two_sequences_in_one_step_get_what_each_gets_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, "qwen3_moe"))
    first, second = np.array([5, 9, 200, 31, 7], dtype=np.int32), np.array([250, 3, 44], dtype=np.int32)
    together = (
        float_provider(checkpoint)
        .step(
            Batch(
                token_ids=np.concatenate([first, second]),
                positions=np.array([0, 1, 2, 3, 4, 0, 1, 2], dtype=np.int32),
                query_starts=np.array([0, 5, 8], dtype=np.int32),
                block_tables=np.array([[3, 1], [7, -1]], dtype=np.int32),
                logit_rows=np.array([4, 7], dtype=np.int32),
            )
        )
        .logits
    )
    alone = [logits_of(float_provider(checkpoint), ids, chunks=[len(ids)])[-1] for ids in (first, second)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
