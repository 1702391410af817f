"""The tiny checkpoints as GGUF files, written with the `gguf` package the way llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_checkpoints import CONFIGS, SPECIAL_TOKENS, tensors
from tokenizers import pre_tokenizers

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "mixtral": "llama"}
MERGES = [("Ġ", "t"), ("h", "e")]
_NAMES = {
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "gate": "ffn_gate_inp",
    "w1": "ffn_gate",
    "w3": "ffn_up",
    "w2": "ffn_down",
    "norm": "output_norm",
}

AddMore = Callable[[gguf.GGUFWriter], object]


def write_gguf(
    path: Path,
    kind: str,
    *,
    quantisation: str = "F32",
    shape: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    chat_template: str = "{{ messages }}",
    add_more: AddMore = lambda writer: None,
) -> Path:
    """Write one of the tiny checkpoints; `metadata` replaces keys of the tokenizer (None = leave out)."""
    config, architecture = {**CONFIGS[kind], **(shape or {})}, ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_organization("Nobody")
    _add_facts(writer, config, architecture)
    _add_tokenizer(writer, metadata or {})
    writer.add_chat_template(chat_template)
    kind_of_block = gguf.GGMLQuantizationType[quantisation]
    for name, tensor in _llama_cpp_tensors(config, architecture):
        if tensor.ndim > 1 and quantisation != "F32" and "ffn_gate_inp" not in name:
            quantised = gguf.quants.quantize(tensor, kind_of_block)
            writer.add_tensor(name, quantised, raw_dtype=kind_of_block)
        else:
            writer.add_tensor(name, tensor)
    add_more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens() -> list[str]:
    """The vocabulary in order of ids: bytes, special tokens, merged tokens."""
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS, *("".join(merge) for merge in MERGES)]


def _add_facts(writer: gguf.GGUFWriter, config: Mapping[str, Any], architecture: str) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
    if experts := config.get("num_experts", config.get("num_local_experts")):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, changes: Mapping[str, Any]) -> None:
    vocabulary = tokens()
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": vocabulary,
        "token_type": [3 if token in SPECIAL_TOKENS else 1 for token in vocabulary],
        "merges": [" ".join(merge) for merge in MERGES],
        "bos_token_id": 257,
        "eos_token_id": 258,
        "add_bos_token": False,
        **changes,
    }
    for key, value in values.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)


def _llama_cpp_tensors(config: Mapping[str, Any], architecture: str) -> list[tuple[str, np.ndarray]]:
    """Names and row order of llama.cpp; experts stacked."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found: list[tuple[str, np.ndarray]] = []
    stacks: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors(config):
        *_, module, suffix = name.split(".")
        prefix = f"blk.{name.split('.')[2]}." if "layers" in name else ""
        if ".experts." in name:
            stacks.setdefault(f"{prefix}{_NAMES[module]}_exps.{suffix}", []).append(tensor)
            continue
        if architecture == "llama" and module in heads:
            half = tensor.shape[0] // heads[module] // 2
            tensor = tensor.reshape(heads[module], 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)  # noqa: PLW2901
        found.append((f"{prefix}{_NAMES[module]}.{suffix}", np.ascontiguousarray(tensor)))
    return found + [(name, np.stack(stack)) for name, stack in stacks.items()]
