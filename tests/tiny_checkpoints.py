"""Tiny checkpoints of every supported kind, in the Hugging Face layout, with weights that follow from their names.

The numbers come from a hash, not from a random generator, so they are the same with every NumPy, and only what
`transformers` makes of them is committed (`runtime/fixtures/golden`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 264
PROMPT = (5, 250, 17, 99, 3, 3, 200, 41, 128, 7, 64, 180, 33, 91, 12, 255)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": VOCAB_SIZE,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 257,
    "eos_token_id": 258,
    "torch_dtype": "float32",
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
_YARN_ROPE_IN_FULL = {
    "type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "truncate": False,
}
_QWEN3_MOE = {
    **_LLAMA,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "decoder_sparse_step": 1,
}
_OLMOE = {
    **_LLAMA,
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "intermediate_size": 48,
}
_MIXTRAL = {
    **_LLAMA,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "intermediate_size": 48,
}
_QWEN2_MOE = {
    **_LLAMA,
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
    "decoder_sparse_step": 1,
}
_GRANITE = {
    **_LLAMA,
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.125,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
}
_GRANITE_MOE = {
    **_GRANITE,
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama3_rope": {**_LLAMA, "rope_theta": 500000.0, "rope_scaling": _LLAMA3_ROPE},
    "linear_rope": {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic_rope": {**_LLAMA, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    "yarn_rope": {**_LLAMA, "rope_scaling": _YARN_ROPE},
    "yarn_rope_in_full": {**_LLAMA, "rope_scaling": _YARN_ROPE_IN_FULL},
    "mistral": {**_LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 6},
    "qwen2_window": {
        **_LLAMA,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen2": {**_LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {
        **_LLAMA,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
    "qwen3_moe": {**_QWEN3_MOE, "norm_topk_prob": True},
    # All experts take part, so rounding cannot flip the routing; one layer stays dense.
    "qwen3_moe_all": {**_QWEN3_MOE, "num_experts_per_tok": 8, "norm_topk_prob": False, "mlp_only_layers": [1]},
    "qwen3_moe_window": {**_QWEN3_MOE, "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 9},
    "olmoe": {**_OLMOE, "norm_topk_prob": False},
    "olmoe_all": {**_OLMOE, "norm_topk_prob": True, "num_experts_per_tok": 8},
    "qwen2_moe": {**_QWEN2_MOE, "norm_topk_prob": False},
    "qwen2_moe_all": {
        **_QWEN2_MOE,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 2,
    },
    "mixtral": _MIXTRAL,
    "mixtral_all": {**_MIXTRAL, "num_experts_per_tok": 8, "sliding_window": 7},
    "granite": _GRANITE,
    "granite_moe": _GRANITE_MOE,
    "granite_moe_all": {**_GRANITE_MOE, "num_experts_per_tok": 8},
}


def write_checkpoint(
    folder: Path, kind: str, *, changes: Mapping[str, Any] | None = None, shape: Mapping[str, Any] | None = None
) -> Path:
    """Write one of CONFIGS; `changes` are put over its config.json, `shape` over what the weights follow too."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[kind], **(shape or {})}
    save_file(dict(tensors(config)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, **(changes or {})}))
    write_text_assets(folder)
    return folder


def write_text_assets(folder: Path) -> None:
    """A byte-level tokenizer without merges, and the settings around it."""
    (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": "{{ messages }}"})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256]}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")


def byte_tokenizer() -> Tokenizer:
    """256 bytes and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: id_ for id_, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer


def tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor that `transformers` expects for the config, by name."""
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", _weight("model.embed_tokens.weight", config["vocab_size"], hidden, gain=8)
    yield "model.norm.weight", _norm("model.norm.weight", hidden)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", _weight("lm_head.weight", config["vocab_size"], hidden, gain=2)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (heads * head_dim, hidden),
            "self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
            "self_attn.v_proj.weight": (kv_heads * head_dim, hidden),
            "self_attn.o_proj.weight": (hidden, heads * head_dim),
            **_mlp_shapes(config, layer),
        }
        for name, shape in shapes.items():
            yield prefix + name, _weight(prefix + name, *shape, gain=2)
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            yield prefix + name, _norm(prefix + name, hidden)
        for name, width in _qk_norms(config, head_dim).items():
            yield prefix + name, _norm(prefix + name, width)
        if config["model_type"].startswith("qwen2"):
            for name, shape in list(shapes.items())[:3]:
                bias = name.replace("weight", "bias")
                yield prefix + bias, _uniform(prefix + bias, shape[0])


def _qk_norms(config: Mapping[str, Any], head_dim: int) -> dict[str, int]:
    """Qwen3 normalises each head, OLMoE all of them together."""
    kind = config["model_type"]
    widths = {"q_norm": config["num_attention_heads"] * head_dim, "k_norm": config["num_key_value_heads"] * head_dim}
    if kind.startswith("qwen3"):
        widths = dict.fromkeys(widths, head_dim)
    elif kind != "olmoe":
        widths = {}
    return {f"self_attn.{name}.weight": width for name, width in widths.items()}


def _mlp_shapes(config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    experts = config.get("num_experts", config.get("num_local_experts"))
    if experts is None or layer in config.get("mlp_only_layers", []):
        return _swiglu_shapes("mlp", hidden, width)
    width = config.get("moe_intermediate_size", width)
    if config["model_type"] == "granitemoe":
        return {
            "block_sparse_moe.router.layer.weight": (experts, hidden),
            "block_sparse_moe.input_linear.weight": (experts, 2 * width, hidden),
            "block_sparse_moe.output_linear.weight": (experts, hidden, width),
        }
    block = "block_sparse_moe" if "num_local_experts" in config else "mlp"
    shapes: dict[str, tuple[int, ...]] = {f"{block}.gate.weight": (experts, hidden)}
    if "shared_expert_intermediate_size" in config:
        shapes |= _swiglu_shapes(f"{block}.shared_expert", hidden, config["shared_expert_intermediate_size"])
        shapes[f"{block}.shared_expert_gate.weight"] = (1, hidden)
    for expert in range(experts):
        shapes |= _swiglu_shapes(f"{block}.experts.{expert}", hidden, width)
    return shapes


def _swiglu_shapes(module: str, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    mixtral = module.startswith("block_sparse_moe")
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    return {
        f"{module}.{gate}.weight": (width, hidden),
        f"{module}.{up}.weight": (width, hidden),
        f"{module}.{down}.weight": (hidden, width),
    }


def _weight(name: str, *shape: int, gain: float) -> np.ndarray:
    return (_uniform(name, math.prod(shape)) * np.float32(gain / np.sqrt(shape[-1]))).reshape(shape)


def _norm(name: str, size: int) -> np.ndarray:
    return 1 + np.float32(0.3) * _uniform(name, size)


def _uniform(name: str, count: int) -> np.ndarray:
    """Float32 in [-1, 1) from a hash of the name."""
    words = np.frombuffer(hashlib.shake_128(name.encode()).digest(4 * count), dtype="<u4")
    return (words.astype(np.float64) / 2**31 - 1).astype(np.float32)
