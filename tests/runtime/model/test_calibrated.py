"""Calibrated packing: errors cancel on the inputs of a text, in every family; the same bytes each time."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import CONFIGS, VOCAB_SIZE, write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.engine.batch import FloatArray
from flash_runtime.kernels.layout import LinearFormat, PackedLinear, pack_linear, unpack_linear
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.calibration import Calibration, calibration
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.errors import RequestError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.pack import pack
from flash_runtime.model.plan import ModelPlan, MoeMlp
from flash_runtime.model.reference import CheckpointWeights, PackedWeights, ReferenceProvider
from flash_runtime.model.rounding import Inputs, pack_rounded
from flash_runtime.model.sequence import Sequence
from flash_runtime.packed import PackedFile

TEXT = Calibration("".join(f"{index} apples and {index * 7 % 31} pears. " for index in range(40)), "counting")
RELATIVE_ERROR = {"Lite": 0.1, "Nano": 0.6}
"""Norm of the error over that of the logits, on random weights and tokens that the text has nothing of."""
ROUTED_KINDS = {"qwen3_moe", "qwen3_moe_window", "qwen2_moe", "olmoe", "mixtral", "granite_moe"}
"""Where rounding may send a token to another expert."""


def correlated(tokens: int, features: int) -> FloatArray:
    random = np.random.default_rng(11)
    few = random.standard_normal((tokens, features // 4)) @ random.standard_normal((features // 4, features))
    return (few + 0.1 * random.standard_normal((tokens, features))).astype(np.float32)


def calibrated(checkpoint: Path, path: Path, variant: str = "Lite", text: Calibration = TEXT) -> PackedFile:
    pack(open_checkpoint(checkpoint), path, variant=variant, calibration=text, progress=lambda done, total: None)
    return PackedFile.open(path)


@pytest.mark.parametrize(("format", "share"), [(LinearFormat.INT8, 0.7), (LinearFormat.INT4, 0.7)])
def test_errors_of_rounding_cancel_on_inputs_that_move_together(format: LinearFormat, share: float) -> None:
    weight = np.random.default_rng(5).standard_normal((40, 96), dtype=np.float32)
    seen, unseen = np.split(correlated(2000, 96), 2)

    def error(packed: PackedLinear) -> float:
        return float(np.square(unseen @ (unpack_linear(packed, n=40, k=96) - weight).T).sum())

    assert error(pack_rounded(weight, format, Inputs.of(seen))) < share * error(pack_linear(weight, format))


def test_inputs_that_do_not_move_together_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(5).standard_normal((24, 64), dtype=np.float32)
    packed = pack_rounded(weight, LinearFormat.INT8, Inputs.of(np.eye(64, dtype=np.float32)))
    np.testing.assert_array_equal(packed.weight, pack_linear(weight).weight)


@pytest.mark.parametrize("format", [LinearFormat.INT8, LinearFormat.INT4])
def test_silent_inputs_and_empty_rows_stay_finite(format: LinearFormat) -> None:
    x, weight = correlated(8, 64), np.random.default_rng(5).standard_normal((17, 64), dtype=np.float32)
    x[:, 7], weight[3] = 0, 0
    found = unpack_linear(pack_rounded(weight, format, Inputs.of(x)), n=17, k=64)
    assert np.isfinite(found).all()
    assert not found[3].any()
    assert np.isfinite(pack_rounded(weight, format, Inputs.of(np.zeros_like(x))).parts["scale"]).all()


@pytest.mark.parametrize("variant", sorted(RELATIVE_ERROR))
@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - ROUTED_KINDS))
def test_a_calibrated_model_stays_close_to_its_checkpoint(kind: str, variant: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", kind)
    packed, checkpoint = calibrated(folder, tmp_path / "m.flash", variant), open_checkpoint(folder)
    sources, plan = recipe(checkpoint), ModelPlan.from_json(packed.header["model"])
    token_ids = np.random.default_rng(3).integers(0, VOCAB_SIZE, 32).astype(np.int32)
    expected, found = (
        Sequence(ReferenceProvider(model, weights, num_blocks=1, block_size=32)).feed(token_ids)
        for model, weights in (
            (sources.plan, CheckpointWeights(checkpoint, sources)),
            (plan, PackedWeights(packed, plan)),
        )
    )
    errors = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert errors.max() <= RELATIVE_ERROR[variant]
    kernels = Sequence(CpuProvider(packed, kv_cache_bytes=2**20, threads=1)).feed(token_ids)
    assert (np.linalg.norm(kernels - found, axis=-1) / np.linalg.norm(found, axis=-1)).max() <= 0.08


def spiked(folder: Path, name: str) -> Path:
    """The checkpoint with one input of a linear a thousand times as heavy as the others."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name][:, 7] *= 1000
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_down_that_a_few_weights_dominate_is_kept_in_bf16(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "p", "llama", shape={"vocab_size": 8192})  # so that there is room for it
    folder = spiked(plain, "model.layers.1.mlp.down_proj.weight")
    packed = calibrated(folder, tmp_path / "m.flash")
    plan = ModelPlan.from_json(packed.header["model"])
    assert "layers.1.down" in plan.wide
    down = pack_linear(np.zeros((96, 160), dtype=np.float32), LinearFormat.BF16)
    assert packed.blob("layers.1.down.weight").shape == down.weight.shape
    extra = sum(packed.blob(f"{name}.weight").size for name in plan.wide)
    assert extra <= 0.04 * sum(blob.nbytes for blob in packed.blobs.values())


def test_a_small_model_has_no_room_for_wide_downs(tmp_path: Path) -> None:
    folder = spiked(write_checkpoint(tmp_path / "c", "llama"), "model.layers.1.mlp.down_proj.weight")
    assert ModelPlan.from_json(calibrated(folder, tmp_path / "m.flash").header["model"]).wide == ()


def test_a_head_of_its_own_is_rounded_for_its_inputs(tmp_path: Path) -> None:
    """And one that is the embedding too is not: its rows are read as they are."""
    for kind, same in (("llama", False), ("qwen3", True)):
        folder = write_checkpoint(tmp_path / kind, kind)
        options: dict[str, Any] = {"variant": "Nano", "progress": lambda done, total: None}
        pack(open_checkpoint(folder), tmp_path / f"{kind}.flash", **options)
        plain, rounded = PackedFile.open(tmp_path / f"{kind}.flash"), calibrated(folder, tmp_path / "c.flash", "Nano")
        name = ModelPlan.from_json(plain.header["model"]).head
        assert np.array_equal(plain.blob(f"{name}.weight"), rounded.blob(f"{name}.weight")) == same


@pytest.mark.parametrize("kind", sorted(ROUTED_KINDS))
def test_every_expert_is_written_whatever_the_text_reached(kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", kind)
    packed = calibrated(folder, tmp_path / "m.flash", text=Calibration("the same " * 400, "one sentence"))
    plan = ModelPlan.from_json(packed.header["model"])
    weights, shapes = PackedWeights(packed, plan), plan.linear_shapes()
    for layer in plan.layers:
        if isinstance(layer.mlp, MoeMlp):
            for expert in range(layer.mlp.num_experts):
                assert weights.weight(layer.mlp.down, expert).shape == shapes[layer.mlp.down]
                assert weights.weight(layer.mlp.gate_up, expert).any()
    logits = Sequence(CpuProvider(packed, kv_cache_bytes=2**20, threads=1)).feed(np.arange(20, dtype=np.int32))
    assert np.isfinite(logits).all()


def test_packing_again_writes_the_same_bytes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "qwen3_moe")
    first, second = (calibrated(folder, tmp_path / name).path for name in ("a.flash", "b.flash"))
    assert first.read_bytes() == second.read_bytes()


def test_a_checkpoints_own_int4_blocks_stay_as_they_are(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", "llama", quantisation="Q4_1")
    pack(open_checkpoint(gguf), tmp_path / "p.flash", variant="Nano", progress=lambda done, total: None)
    plain, again = PackedFile.open(tmp_path / "p.flash"), calibrated(gguf, tmp_path / "a.flash", "Nano")
    assert plain.blobs.keys() == again.blobs.keys()
    for name in plain.blobs.keys() - {"head.weight"}:  # int8, rounded for its inputs
        np.testing.assert_array_equal(plain.blob(name), again.blob(name), err_msg=name)


def test_the_header_says_how_and_on_what(tmp_path: Path) -> None:
    header = calibrated(write_checkpoint(tmp_path / "c", "llama"), tmp_path / "m.flash").header
    assert header["calibration"]["sha256"] == hashlib.sha256(TEXT.text.encode()).hexdigest()
    assert header["calibration"]["tokens"] >= 256
    assert header["rotated"]


def test_bf16_weights_are_not_calibrated(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="int8 and int4 weights, Cloud has bf16"):
        calibrated(write_checkpoint(tmp_path / "c", "llama"), tmp_path / "m.flash", "Cloud")


def test_a_text_of_a_few_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at least 256 are needed"):
        calibrated(write_checkpoint(tmp_path / "c", "llama"), tmp_path / "m.flash", text=Calibration("Hi.", "note"))


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.txt: No such file"):
        calibration(tmp_path / "nowhere.txt")


def test_the_built_in_text_is_not_what_models_are_measured_on() -> None:
    measured = "\n".join(importlib.import_module("pydoc_data.topics").topics.values())
    lines = {line.strip() for line in calibration(None).text.splitlines() if len(line.strip()) > 40}
    assert not [line for line in lines if line in measured]
