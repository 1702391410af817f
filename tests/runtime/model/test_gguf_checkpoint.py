"""GGUF import: the same weights under the same names as the Hugging Face layout; damage is named, never followed."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_checkpoints import CONFIGS, tensors, write_checkpoint
from tiny_gguf import ARCHITECTURES, write_gguf

from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.errors import CheckpointError, ModelError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.gguf_checkpoint import GgufCheckpoint, halves_from_neighbours
from flash_runtime.model.rope import inverse_frequencies


def read_everything(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    checkpoint.text()
    for name in sorted(recipe(checkpoint).tensors):
        checkpoint.tensor(name)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_tensors_are_those_of_the_hugging_face_layout(kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", kind))
    for name, expected in tensors(CONFIGS[kind]):
        np.testing.assert_array_equal(checkpoint.tensor(name), expected, err_msg=name)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_the_layer_plan_is_that_of_the_hugging_face_layout(kind: str, tmp_path: Path) -> None:
    from_gguf = recipe(open_checkpoint(write_gguf(tmp_path / "m.gguf", kind))).plan
    from_folder = recipe(open_checkpoint(write_checkpoint(tmp_path / "hf", kind))).plan
    assert from_gguf.norm_eps == pytest.approx(from_folder.norm_eps)
    assert {**from_gguf.to_json(), "norm_eps": 0} == {**from_folder.to_json(), "norm_eps": 0}


@pytest.mark.parametrize(
    ("kind", "quantisation", "tolerance"),
    [
        ("llama", "F16", 1e-3),
        ("llama", "BF16", 8e-3),
        ("llama", "Q8_0", 0.01),
        ("llama", "Q4_0", 0.2),
        ("llama", "Q4_1", 0.1),
        ("qwen3_moe", "F16", 1e-3),
    ],
)
def test_quantised_weights_are_dequantised(kind: str, quantisation: str, tolerance: float, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", kind, quantisation=quantisation))
    for name, expected in tensors(CONFIGS[kind]):
        error = np.abs(checkpoint.tensor(name) - expected).max() / np.abs(expected).max()
        assert error <= tolerance, name


def test_undoing_the_rope_order_is_the_inverse_of_llama_cpp() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)  # 2 heads of 6
    interleaved = rows.reshape(2, 2, 3, 2).swapaxes(1, 2).reshape(12, 2)
    assert interleaved[:4, 0].tolist() == [0, 6, 2, 8]
    np.testing.assert_array_equal(halves_from_neighbours(interleaved, num_heads=2), rows)


def test_rope_divisors_in_the_file_stretch_the_frequencies(tmp_path: Path) -> None:
    divisors = np.array([1, 1, 2, 2, 4, 4, 8, 8], dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", "llama", add_more=lambda w: w.add_tensor("rope_freqs.weight", divisors))
    rope = open_checkpoint(path).config.rope
    plain = inverse_frequencies(open_checkpoint(write_gguf(tmp_path / "n.gguf", "llama")).config.rope, head_dim=16)
    np.testing.assert_allclose(inverse_frequencies(rope, head_dim=16), plain / divisors, rtol=1e-6)
    assert recipe(open_checkpoint(path)).plan.family == "llama"


def test_licence_and_author_are_known(tmp_path: Path) -> None:
    about = open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama")).about
    assert (about.name, about.license, about.attribution) == ("Tiny", "apache-2.0", "Tiny by Nobody")


def test_a_block_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        "llama",
        add_more=lambda w: w.add_tensor(
            "extra.weight", np.zeros((1, 144), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K
        ),
    )
    with pytest.raises(UnsupportedModel, match=r"extra\.weight is Q4_K; this release reads F32, F16, BF16, Q8_0"):
        GgufCheckpoint.open(path).tensor("extra.weight")


def test_a_weight_without_a_place_is_refused(tmp_path: Path) -> None:
    bias = np.zeros(160, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", "llama", add_more=lambda w: w.add_tensor("blk.0.ffn_up.bias", bias))
    with pytest.raises(UnsupportedModel, match=r"the first is blk\.0\.ffn_up\.bias"):
        recipe(open_checkpoint(path))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("rope.scaling.type", "yarn", "RoPE scaling 'yarn' is not supported"),
        ("rope.dimension_count", 8, "RoPE turns 8 of 16 features"),
        ("attention.sliding_window", 4096, "sliding_window is 4096"),
    ],
)
def test_metadata_we_cannot_honour_is_refused(tmp_path: Path, key: str, value: str | int, reason: str) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_string(f"llama.{key}", value) if isinstance(value, str) else writer.add_uint32(f"llama.{key}", value)

    with pytest.raises(UnsupportedModel, match=reason):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama", add_more=add))


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match="'mamba'; this release reads llama, qwen2, qwen3, qwen3moe"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "m.gguf", "llama").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 8000, 173), len(content) // 2, len(content) - 4096]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            read_everything(path)


def test_changed_bytes_in_the_metadata_cause_no_other_error(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "m.gguf", "llama").read_bytes()
    path = tmp_path / "changed.gguf"
    for position in range(0, 9000, 61):
        changed = bytearray(content)
        changed[position] ^= 0x81
        path.write_bytes(changed)
        with contextlib.suppress(ModelError):  # some changes do no harm, e.g. another letter in a name
            read_everything(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cut.gguf"),
        (b"PK\x03\x04 a zip file", "does not start with 'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62), "cut off"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "cut off"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "metadata k: unknown value type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**61), "cut off"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 2**61), "cut off"),
        (b"GGUF" + struct.pack("<IQQQ1s", 3, 0, 1, 1, b"\xff") + bytes(80), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 5000, "metadata k"),
    ],
)
def test_a_hostile_file_is_refused_at_once(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
