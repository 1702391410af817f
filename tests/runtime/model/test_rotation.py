"""Rotations are orthogonal and the same everywhere; a model rotated by them computes what it computed before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import CONFIGS, VOCAB_SIZE, write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.engine.batch import FloatArray
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.facts import facts
from flash_runtime.model.families import recipe
from flash_runtime.model.families.recipe import Recipe
from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider
from flash_runtime.model.rotated import rotated
from flash_runtime.model.rotation import Rotation
from flash_runtime.model.sequence import Sequence

SIZES = [1, 2, 3, 15, 64, 96, 576, 1024]
LOGITS_TOLERANCE = 1e-4


def matrix_of(features: int) -> FloatArray:
    """Q itself: what the unit vectors become."""
    unit = np.eye(features, dtype=np.float32)
    Rotation(features).of_inputs(unit)
    return unit


def some(*shape: int) -> FloatArray:
    return np.random.default_rng(7).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("features", SIZES)
def test_a_rotation_keeps_lengths_and_angles(features: int) -> None:
    matrix = matrix_of(features).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(features), atol=1e-5)


@pytest.mark.parametrize("features", [64, 96, 576, 1024])
def test_an_outlier_is_spread_over_all_features(features: int) -> None:
    assert np.abs(matrix_of(features)).max() <= 1.5 / np.sqrt(features)


@pytest.mark.parametrize("features", SIZES)
def test_inputs_and_outputs_turn_by_the_same_matrix(features: int) -> None:
    matrix, weight = matrix_of(features), some(features, 37)
    turned = weight.copy()
    Rotation(features).of_outputs(turned)
    np.testing.assert_allclose(turned, matrix.T @ weight, atol=1e-4)


def test_every_block_turns_by_itself_and_factors_come_first() -> None:
    weight, factors, matrix = some(5, 3 * 32), some(3 * 32), matrix_of(32)
    turned = weight.copy()
    Rotation(32).of_inputs(turned, factors=factors)
    expected = ((weight * factors).reshape(5, 3, 32) @ matrix).reshape(5, 96)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_a_bias_turns_like_a_column() -> None:
    bias = some(96)
    turned = bias.copy()
    Rotation(96).of_outputs(turned)
    np.testing.assert_allclose(turned, bias @ matrix_of(96), atol=1e-5)


def test_the_matrix_has_the_same_bits_on_every_machine() -> None:
    assert (
        hashlib.sha256(matrix_of(576).tobytes()).hexdigest()
        == "b8ea6bc3f664f224792f4e293e94998a6f594ecdf73f6f71a6ddef227b5fda72"
    )


def logits(checkpoint: Checkpoint, sources: Recipe, token_ids: np.ndarray) -> FloatArray:
    weights = CheckpointWeights(checkpoint, sources)
    provider = ReferenceProvider(sources.plan, weights, num_blocks=1, block_size=len(token_ids))
    return Sequence(provider).feed(token_ids)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_rotated_model_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, kind))
    sources, token_ids = recipe(checkpoint), np.random.default_rng(3).integers(0, VOCAB_SIZE, 24).astype(np.int32)
    plain, turned = logits(checkpoint, sources, token_ids), logits(checkpoint, rotated(sources), token_ids)
    assert np.abs(turned - plain).max() <= LOGITS_TOLERANCE


def test_a_rotated_gguf_gives_the_same_logits(tmp_path: Path) -> None:
    """Its tensors are views of the file, which must stay as it is."""
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama", quantisation="F32"))
    before = checkpoint.path.read_bytes()
    sources, token_ids = recipe(checkpoint), np.arange(16, dtype=np.int32)
    plain, turned = logits(checkpoint, sources, token_ids), logits(checkpoint, rotated(sources), token_ids)
    assert np.abs(turned - plain).max() <= LOGITS_TOLERANCE
    assert checkpoint.path.read_bytes() == before


def test_rotating_changes_no_count_of_parameters(tmp_path: Path) -> None:
    sources = recipe(open_checkpoint(write_checkpoint(tmp_path, "qwen3")))
    assert facts(rotated(sources).plan) == facts(sources.plan)
