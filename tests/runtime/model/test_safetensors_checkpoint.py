"""Checkpoints in the Hugging Face layout: every way of storing them gives the same numbers; damage is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import byte_tokenizer, write_checkpoint

from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.errors import CheckpointError, ModelError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.safetensors_checkpoint import SafetensorsCheckpoint

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, "llama")


def change_json(path: Path, **changes: object) -> None:
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def test_shards_read_like_one_file(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    expected = SafetensorsCheckpoint.open(folder).tensor(NAME)
    shards = [dict(list(whole.items())[:10]), dict(list(whole.items())[10:])]
    weight_map = {}
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"model-{number}.safetensors")
        weight_map |= dict.fromkeys(shard, f"model-{number}.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(SafetensorsCheckpoint.open(folder).tensor(NAME), expected)

    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-1\.safetensors, which is not in"):
        SafetensorsCheckpoint.open(folder)


@pytest.mark.parametrize(("dtype", "tolerance"), [("F16", 1e-3), ("BF16", 1e-2), ("F64", 0)])
def test_other_float_formats_become_float32(tmp_path: Path, dtype: str, tolerance: float) -> None:
    write_checkpoint(tmp_path, "llama")
    values = np.array([[1.5, -2.25, 3e-3], [0.0, 100.0, -7.0]], dtype=np.float32)
    raw = {
        "F16": values.astype("<f2").tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype("<u2").tobytes(),
        "F64": values.astype("<f8").tobytes(),
    }[dtype]
    header = json.dumps({"x": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, len(raw)]}}).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw)
    found = SafetensorsCheckpoint.open(tmp_path).tensor("x")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, rtol=tolerance)


def test_a_number_format_that_is_not_read_is_named(folder: Path) -> None:
    save_file({"x": np.zeros(4, dtype=np.int8)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor x is I8; this release reads BF16, F16, F32, F64"):
        SafetensorsCheckpoint.open(folder).tensor("x")


def test_a_cut_off_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        SafetensorsCheckpoint.open(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor nonsense is missing"):
        SafetensorsCheckpoint.open(folder).tensor("nonsense")


def test_one_of_a_stack_is_read_by_its_number(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "granite_moe")
    name = "model.layers.0.block_sparse_moe.output_linear.weight"
    checkpoint = SafetensorsCheckpoint.open(folder)
    np.testing.assert_array_equal(checkpoint.tensor(name, part=3), checkpoint.tensor(name)[3])
    with pytest.raises(CheckpointError, match=r"output_linear.weight has shape \[8, 96, 48\], number 8 of its first"):
        checkpoint.tensor(name, part=8)


def test_a_folder_without_weights_says_what_is_expected(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file"):
        SafetensorsCheckpoint.open(folder)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"hidden_size": 0}, CheckpointError, "hidden_size"),
        ({"hidden_size": None}, CheckpointError, "hidden_size: Field required"),
        ({"architectures": []}, CheckpointError, "architectures"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, UnsupportedModel, "mlp_bias"),
        ({"clip_qkv": 8.0}, UnsupportedModel, r"clip_qkv is 8\.0"),
        ({"sliding_window": -1}, CheckpointError, "sliding_window is -1"),
        ({"layer_types": ["full_attention"]}, CheckpointError, "layer_types has 1 entries, num_hidden_layers is 3"),
        ({"layer_types": ["sliding_attention"] * 3}, CheckpointError, "sliding_window is None"),
        ({"layer_types": ["linear_attention"] * 3}, UnsupportedModel, "layer_types has 'linear_attention'"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModel, "partial_rotary_factor"),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 4}},
            UnsupportedModel,
            "'longrope' is not supported by this release; known: default, linear, dynamic, yarn, llama3",
        ),
        ({"rope_scaling": {"type": "linear"}}, CheckpointError, "incomplete: linear needs factor"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 4}},
            CheckpointError,
            "incomplete: llama3 needs low_freq_factor",
        ),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, CheckpointError, "malformed: factor.*found -1"),
        ({"rope_scaling": {"type": "yarn", "factor": 1e308}}, CheckpointError, "malformed: factor"),
        ({"rope_theta": "big"}, CheckpointError, "malformed: rope_theta.*found 'big'"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 4, "low_freq_factor": 2, "high_freq_factor": 2}},
            CheckpointError,
            r"high_freq_factor \(2\.0\) must exceed low_freq_factor \(2\.0\)",
        ),
        ({"num_experts": 8}, CheckpointError, "num_experts_per_tok"),
        (
            {"num_experts": 8, "num_experts_per_tok": 9},
            CheckpointError,
            r"num_experts_per_tok \(9\) must be between 1 and num_experts \(8\)",
        ),
    ],
)
def test_a_configuration_we_cannot_honour_is_refused(
    folder: Path, changes: dict[str, object], error: type[ModelError], reason: str
) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(error, match=reason):
        SafetensorsCheckpoint.open(folder)


def test_newer_and_older_spellings_of_rope_agree(folder: Path) -> None:
    older = SafetensorsCheckpoint.open(folder).config
    change_json(
        folder / "config.json",
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    assert SafetensorsCheckpoint.open(folder).config == older


def test_yarn_widens_the_window_to_what_it_was_made_for(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    change_json(folder / "config.json", rope_scaling=scaling)
    assert SafetensorsCheckpoint.open(folder).config.max_context_tokens == 2048


SWITCHED_OFF = {"sliding_window": 64, "use_sliding_window": False}
SWITCHED_ON = {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}
LISTED = {**SWITCHED_ON, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}


@pytest.mark.parametrize(
    ("kind", "changes", "windows"),
    [
        ("llama", SWITCHED_ON, [None, None, None]),  # transformers' Llama knows none either
        ("mistral", {"sliding_window": 64}, [64, 64, 64]),
        ("mistral", {"sliding_window": None}, [None, None, None]),
        ("mixtral", {"sliding_window": 64}, [64, 64, 64]),
        ("mixtral", {}, [None, None, None]),
        ("olmoe", SWITCHED_ON, [None, None, None]),
        ("qwen2", {"sliding_window": 64}, [None, None, None]),
        ("qwen2", SWITCHED_OFF, [None, None, None]),
        ("qwen2", SWITCHED_ON, [None, 64, 64]),
        ("qwen3", LISTED, [64, None, None]),
        ("qwen2_moe", {**SWITCHED_ON, "max_window_layers": 3}, [64, None, 64]),
        ("qwen2_moe", LISTED, [64, None, None]),
        ("qwen3_moe", SWITCHED_OFF, [None, None, None]),
        ("qwen3_moe", SWITCHED_ON, [64, 64, 64]),
    ],
)
def test_each_family_has_its_rule_for_which_layers_a_window_binds(
    tmp_path: Path, kind: str, changes: dict[str, object], windows: list[int | None]
) -> None:
    folder = write_checkpoint(tmp_path, kind, changes=changes)
    assert [layer.window for layer in recipe(open_checkpoint(folder)).plan.layers] == windows


def test_mistral_has_a_window_even_where_its_file_leaves_it_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    change_json(folder / "config.json", sliding_window=None)  # None takes the key out
    assert [layer.window for layer in recipe(open_checkpoint(folder)).plan.layers] == [4096] * 3


def test_a_configuration_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        SafetensorsCheckpoint.open(folder)


def test_an_unknown_architecture_is_refused_with_the_known_ones(folder: Path) -> None:
    change_json(folder / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(
        UnsupportedModel, match=r"MambaForCausalLM is not supported; known: .*LlamaForCausalLM, .*Qwen2"
    ):
        recipe(open_checkpoint(folder))


def test_a_weight_without_a_place_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    extra = {
        "model.layers.0.mlp.down_proj.bias": np.zeros(96, np.float32),
        "rotary_emb.inv_freq": np.ones(8, np.float32),
    }
    save_file({**load_file(path), **extra}, path)
    with pytest.raises(
        UnsupportedModel, match=r"1 tensors have no place in family llama, the first is model\.layers\.0"
    ):
        recipe(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "8 attention heads cannot share 3"),
        ({"head_dim": 15}, r"head_dim \(15\) must be even"),
    ],
)
def test_head_counts_that_do_not_fit_are_refused(folder: Path, changes: dict[str, int], reason: str) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=reason):
        recipe(open_checkpoint(folder))


def test_text_assets_come_from_the_folder(folder: Path) -> None:
    text = open_checkpoint(folder).text()
    assert (text.bos_token, text.eos_token, text.eos_token_ids) == ("<|im_start|>", "<|im_end|>", (258, 256))
    assert text.chat_template == "{{ messages }}"
    assert text.special_tokens == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    assert not text.add_bos
    assert open_checkpoint(folder).about.license == "apache-2.0"


def test_a_tokenizer_that_adds_the_start_token_is_noticed(folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 257)])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    assert open_checkpoint(folder).text().add_bos


def test_the_default_one_of_several_chat_templates_counts(folder: Path) -> None:
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    change_json(folder / "tokenizer_config.json", chat_template=templates)
    assert open_checkpoint(folder).text().chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert open_checkpoint(folder).text().chat_template == "J"


def test_a_folder_without_an_end_token_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    change_json(folder / "config.json", eos_token_id=None)
    change_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(CheckpointError, match="no valid eos_token_id"):
        open_checkpoint(folder).text()


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        open_checkpoint(folder).text()
