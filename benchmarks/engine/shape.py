"""The synthetic Qwen3-MoE as a Hugging Face folder: seeded random weights in bf16. Knows no engine.

Random weights of this scale keep activations near one and load the experts evenly, so every engine does the work
that the shape asks for; what comes out means nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SEED: Final = 20261123


@dataclass(frozen=True)
class Shape:
    """A decoder of L layers; without `experts` its MLPs are dense."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    """Hidden features of one expert, or of the dense MLP."""
    vocab: int
    experts: int = 1
    top_k: int = 1

    @property
    def attention_weights(self) -> int:
        """Elements of the four projections of all layers."""
        return self.layers * self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def expert_weights(self) -> int:
        """Elements of one expert in every layer."""
        return self.layers * 3 * self.hidden * self.width

    @property
    def head_weights(self) -> int:
        """Elements of the output head."""
        return self.vocab * self.hidden


MOE: Final = Shape(12, 1024, 16, 4, 64, 512, 50_304, experts=32, top_k=4)
"""739 M parameters, 158.5 M active."""
EXPERTS: Final = Shape(12, 1024, 1, 1, 64, 512, 512, experts=32, top_k=4)
"""The same experts with next to nothing around them."""
DEMO: Final = Shape(30, 576, 9, 3, 64, 1536, 49_152)
"""SmolLM2-135M-Instruct, the demo's model."""


def write_checkpoint(folder: Path, shape: Shape, on_shard: Callable[[int, int], None]) -> None:
    """Write config, tokenizer and one shard a layer; `on_shard` hears (shards written, shards in all)."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2))
    _write_text_assets(folder)
    where: dict[str, str] = {}
    total = shape.layers + 1
    for index in range(total):
        name = f"model-{index + 1:05}-of-{total:05}.safetensors"
        tensors = dict(_layer(shape, index) if index < shape.layers else _ends(shape))
        _write_shard(folder / name, tensors)
        where |= dict.fromkeys(tensors, name)
        on_shard(index + 1, total)
    index_file = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))


def _write_shard(path: Path, tensors: Mapping[str, NDArray[np.uint16]]) -> None:
    """A safetensors file by hand: its NumPy face knows no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for bits in tensors.values():
            file.write(bits.data)


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.top_k * shape.width,
        "moe_intermediate_size": shape.width,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": shape.vocab,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 4096,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _layer(shape: Shape, index: int) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    prefix = f"model.layers.{index}."
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {
        "self_attn.q_proj": (queries, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, queries),
        "mlp.gate": (shape.experts, shape.hidden),
    }
    for expert in range(shape.experts):
        for name in ("gate_proj", "up_proj"):
            matrices[f"mlp.experts.{expert}.{name}"] = (shape.width, shape.hidden)
        matrices[f"mlp.experts.{expert}.down_proj"] = (shape.hidden, shape.width)
    for name, (rows, columns) in matrices.items():
        yield f"{prefix}{name}.weight", _matrix(prefix + name, rows, columns)
    for name, size in (
        ("input_layernorm", shape.hidden),
        ("post_attention_layernorm", shape.hidden),
        ("self_attn.q_norm", shape.head_dim),
        ("self_attn.k_norm", shape.head_dim),
    ):
        yield f"{prefix}{name}.weight", _norm(prefix + name, size)


def _ends(shape: Shape) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    embedding = _random("model.embed_tokens", (shape.vocab, shape.hidden))
    yield "model.embed_tokens.weight", to_bf16(embedding)
    yield "model.norm.weight", _norm("model.norm", shape.hidden)
    yield "lm_head.weight", _matrix("lm_head", shape.vocab, shape.hidden)


def _matrix(name: str, rows: int, columns: int) -> NDArray[np.uint16]:
    """Inputs of size one give outputs of size one."""
    return to_bf16(_random(name, (rows, columns)) * np.float32(columns**-0.5))


def _norm(name: str, size: int) -> NDArray[np.uint16]:
    return to_bf16(np.float32(1) + np.float32(0.1) * _random(name, (size,)))


def _random(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers that follow from the tensor's name, so that shards may be written in any order."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; the values must be finite."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def _write_text_assets(folder: Path) -> None:
    """A byte-level tokenizer: prompts of the benchmark are token ids, but a checkpoint without one is not whole."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: id_ for id_, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": alphabet[0], "eos_token": alphabet[1]})
    )
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Random weights of a Qwen3-MoE shape\n")
