"""Packing: the written file holds the plan, the text and every weight; damaged weights are named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import CONFIGS, tensors, write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.kernels.layout import LinearFormat, PackedLinear, part_shapes, unpack_linear
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.pack import pack
from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.reference import CheckpointWeights, PackedWeights
from flash_runtime.packed import PackedFile

PEAK_TENSORS = 8
"""Float32 tensors of the largest size that packing may hold at once."""


def packed(
    checkpoint: Path, path: Path, *, variant: str = "Lite", text_only: bool = False, rotate: bool | None = None
) -> PackedFile:
    pack(
        open_checkpoint(checkpoint),
        path,
        variant=variant,
        rotate=rotate,
        progress=lambda done, total: None,
        text_only=text_only,
    )
    return PackedFile.open(path)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_dequantised_weights_are_within_half_a_step_of_the_originals(kind: str, tmp_path: Path) -> None:
    file = packed(write_checkpoint(tmp_path / "checkpoint", kind), tmp_path / "model.flash", rotate=False)
    plan = ModelPlan.from_json(file.header["model"])
    originals = dict(tensors(CONFIGS[kind]))
    attention = "model.layers.0.self_attn"
    modules = {
        plan.layers[0].qkv: [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"],
        plan.layers[1].o: ["model.layers.1.self_attn.o_proj"],
        plan.embedding: ["model.embed_tokens"],
    }
    for name, parts in modules.items():
        original = np.concatenate([originals[f"{part}.weight"] for part in parts])
        linear = PackedLinear(weight=file.blob(f"{name}.weight"), scale=file.blob(f"{name}.scale"))
        n, k = plan.linear_shapes()[name]
        error = np.abs(unpack_linear(linear, n=n, k=k) - original)
        assert (error <= 0.5001 * linear.scale[:n, None]).all(), name


def test_experts_lie_in_order(tmp_path: Path) -> None:
    file = packed(write_checkpoint(tmp_path / "checkpoint", "qwen3_moe"), tmp_path / "model.flash", rotate=False)
    originals = dict(tensors(CONFIGS["qwen3_moe"]))
    weight, scale = file.blob("layers.2.experts.gate_up.weight"), file.blob("layers.2.experts.gate_up.scale")
    for expert in range(8):
        prefix = f"model.layers.2.mlp.experts.{expert}"
        original = np.concatenate([originals[f"{prefix}.gate_proj.weight"], originals[f"{prefix}.up_proj.weight"]])
        found = unpack_linear(PackedLinear(weight=weight[expert], scale=scale[expert]), n=96, k=96)
        np.testing.assert_allclose(found, original, atol=0.51 * scale.max())


def test_the_header_says_what_it_is(tmp_path: Path) -> None:
    header = packed(write_gguf(tmp_path / "m.gguf", "llama"), tmp_path / "model.flash").header
    assert header["variant"] == "Lite"
    assert header["contents"] == "model"
    assert header["about"] == {"name": "Tiny", "license": "apache-2.0", "attribution": "Tiny by Nobody"}
    assert header["text"] == {
        "chat_template": "{{ messages }}",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "eos_token_ids": [258],
        "add_bos": False,
        "special_tokens": {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258},
    }


def test_text_only_leaves_the_weights_out(tmp_path: Path) -> None:
    file = packed(write_checkpoint(tmp_path / "c", "llama"), tmp_path / "model.flash", text_only=True)
    assert set(file.blobs) == {"tokenizer.json"}
    assert file.header["contents"] == "text"
    assert file.header["model"]["max_context_tokens"] == 512


@pytest.mark.parametrize("variant", ["Cloud", "Lite", "Nano"])
def test_packing_twice_gives_the_same_bytes(tmp_path: Path, variant: str) -> None:
    folder = write_checkpoint(tmp_path / "c", "qwen3_moe")
    packed(folder, tmp_path / "one", variant=variant)
    packed(folder, tmp_path / "two", variant=variant)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_progress_reaches_the_number_of_tensors(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", "qwen2"))
    pack(checkpoint, tmp_path / "f", variant="Lite", progress=lambda done, total: seen.append((done, total)))
    total = len(dict(tensors(CONFIGS["qwen2"])))
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_every_expert_of_a_stacked_tensor_counts_as_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", "granite_moe"))
    pack(checkpoint, tmp_path / "f", variant="Lite", progress=lambda done, total: seen.append((done, total)))
    per_layer = 4 + 2 + 1 + 2 * 8  # attention, norms, router, two linears of each expert
    assert seen[-1] == (2 + 3 * per_layer,) * 2  # the embedding, which is the head too, and the last norm


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, name: str, value: float) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama")
    weights = load_file(folder / "model.safetensors")
    weights[name].flat[7] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN or infinity"):
        packed(folder, tmp_path / "model.flash")
    assert not (tmp_path / "model.flash").exists()


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama", changes={"intermediate_size": 128})
    with pytest.raises(
        CheckpointError, match=r"gate_proj\.weight has shape \[160, 96\], the configuration says \[128, 96\]"
    ):
        packed(folder, tmp_path / "model.flash")


def test_layers_that_are_promised_but_absent_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama", changes={"num_hidden_layers": 2**40})
    with pytest.raises(CheckpointError, match="layer 3 has no weights"):
        packed(folder, tmp_path / "model.flash")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama", changes={"vocab_size": 258, "eos_token_id": 1})
    (folder / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match="highest id is 258, the embedding has 258 rows"):
        packed(folder, tmp_path / "model.flash")


def test_an_unknown_variant_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama")
    with pytest.raises(UnsupportedModel, match=r"variant \(Huge\) must be one of Cloud, Lite, Nano"):
        packed(folder, tmp_path / "model.flash", variant="Huge")


@pytest.mark.parametrize(
    ("variant", "head", "weight_format", "head_format"),
    [
        ("cloud", None, "bf16", "bf16"),
        ("Lite", None, "int8", "int8"),
        ("nano", None, "int4", "int8"),
        ("Nano", "int8", "int4", "int8"),
        ("Nano", "int4", "int4", "int4"),
    ],
)
def test_a_variant_says_the_formats_of_layers_and_head(
    tmp_path: Path, variant: str, head: str | None, weight_format: str, head_format: str
) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", "qwen3_moe"))
    pack(checkpoint, tmp_path / "f", variant=variant, head=head, progress=lambda done, total: None)
    file = PackedFile.open(tmp_path / "f")
    assert file.header["variant"] == variant.capitalize()
    assert file.header["model"]["weight_format"] == weight_format
    assert file.header["model"]["head_format"] == head_format
    for name, format in (
        ("layers.0.qkv", weight_format),
        ("layers.1.experts.down", weight_format),
        ("head", head_format),
    ):
        n, k = ModelPlan.from_json(file.header["model"]).linear_shapes()[name]
        for part, expected in part_shapes(LinearFormat(format), n, k).items():
            stack = (8,) if "experts" in name else ()
            assert (file.blobs[f"{name}.{part}"].dtype, file.blobs[f"{name}.{part}"].shape) == (
                expected.dtype,
                (*stack, *expected.shape),
            )


@pytest.mark.parametrize(("variant", "head"), [("Lite", "int4"), ("Cloud", "int8"), ("Nano", "bf16"), ("Nano", "int2")])
def test_a_head_that_the_variant_has_not_is_refused(tmp_path: Path, variant: str, head: str) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", "llama"))
    with pytest.raises(UnsupportedModel, match=rf"head \({head}\) must be .* for variant {variant}"):
        pack(checkpoint, tmp_path / "f", variant=variant, head=head, progress=lambda done, total: None)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe", "mixtral"])
@pytest.mark.parametrize("quantisation", ["Q4_0", "Q4_1"])
def test_int4_blocks_of_a_gguf_are_taken_over_without_loss(tmp_path: Path, kind: str, quantisation: str) -> None:
    """Rows of q and k are put back into order; the blocks lie along the other axis and stay whole."""
    widths = {"qwen3_moe": {"moe_intermediate_size": 64}, "mixtral": {"intermediate_size": 64}}  # whole blocks of 32
    file = write_gguf(tmp_path / "m.gguf", kind, quantisation=quantisation, shape=widths.get(kind))
    checkpoint = open_checkpoint(file)
    pack(checkpoint, tmp_path / "f", variant="Nano", head="int4", progress=lambda done, total: None)
    packed_file, sources = PackedFile.open(tmp_path / "f"), recipe(checkpoint)
    plan = ModelPlan.from_json(packed_file.header["model"])
    weights, originals = PackedWeights(packed_file, plan), CheckpointWeights(checkpoint, sources)
    for name, (_, k) in plan.linear_shapes().items():
        experts = range(len(sources.experts[name])) if name in sources.experts else [None]
        for expert in experts:
            unit = np.eye(k, dtype=np.float32)
            found = weights.weight(name, expert)
            np.testing.assert_array_equal(found, originals.linear(name, unit, expert=expert).T, err_msg=name)


@pytest.mark.parametrize(
    ("variant", "rotate", "expected"),
    [("Lite", None, False), ("Lite", True, True), ("Nano", None, False), ("Nano", True, True), ("Cloud", None, False)],
)
def test_a_model_is_rotated_only_if_asked(tmp_path: Path, variant: str, rotate: bool | None, expected: bool) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", "llama", quantisation="Q4_1")
    header = packed(gguf, tmp_path / "f", variant=variant, rotate=rotate).header
    assert header["rotated"] is expected


def test_a_rotated_model_has_a_head_of_its_own(tmp_path: Path) -> None:
    header = packed(write_checkpoint(tmp_path / "c", "qwen2"), tmp_path / "f", rotate=True).header
    assert header["model"]["head"] != header["model"]["embedding"]


def test_weights_beyond_a_format_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"].flat[7] = 1e6
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"o_proj.*float16.*found 1e\+06"):
        packed(folder, tmp_path / "model.flash", variant="Nano")


@pytest.mark.parametrize("variant", ["Cloud", "Lite", "Nano"])
def test_packing_holds_a_few_tensors_at_a_time_and_never_the_model(tmp_path: Path, variant: str) -> None:
    """NumPy tells tracemalloc of its arrays; with this many layers no tensor is a large share of the model."""
    shape = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 12}
    folder = write_checkpoint(tmp_path / "c", "llama", shape=shape)
    checkpoint = open_checkpoint(folder)
    sizes = [array.nbytes for array in load_file(folder / "model.safetensors").values()]
    tracemalloc.start()
    try:
        pack(checkpoint, tmp_path / "f", variant=variant, progress=lambda done, total: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PEAK_TENSORS * max(sizes) < sum(sizes) / 2
