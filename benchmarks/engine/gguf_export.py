"""A Qwen3-MoE checkpoint written as GGUF. Norms and routers stay float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig

_ARCH: Final = gguf.MODEL_ARCH.QWEN3MOE
_ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")


def export(
    checkpoint: Checkpoint,
    path: Path,
    quantization: gguf.GGMLQuantizationType,
    on_layer: Callable[[int, int], None],
    *,
    head: gguf.GGMLQuantizationType | None = None,
) -> None:
    """Write the file with every matrix in one number format, embedding and head in `head` where that is given.

    `on_layer` hears (layers quantised, layers in all).
    """
    config = checkpoint.config
    experts = config.experts
    assert experts is not None, "a mixture of experts is exported"
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCH], use_temp_file=False)
    _write_facts(writer, checkpoint, experts)
    names = gguf.get_tensor_name_map(_ARCH, config.num_layers)

    def add(name: str, weight: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> None:
        target = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        assert target is not None, name
        writer.add_tensor(target, gguf.quants.quantize(weight, kind), raw_dtype=kind)

    for name in ("model.embed_tokens", "lm_head"):
        add(name, checkpoint.tensor(f"{name}.weight"), head or quantization)
    add("model.norm", checkpoint.tensor("model.norm.weight"), gguf.GGMLQuantizationType.F32)
    for layer in range(config.num_layers):
        for name, weight, is_matrix in _layer(checkpoint, f"model.layers.{layer}", experts.num_experts):
            add(name, weight, quantization if is_matrix else gguf.GGMLQuantizationType.F32)
        on_layer(layer + 1, config.num_layers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _layer(checkpoint: Checkpoint, prefix: str, experts: int) -> Iterator[tuple[str, NDArray[np.float32], bool]]:
    """(name, weight, whether it is quantised) of one layer."""
    for name in _ATTENTION:
        full = f"{prefix}.self_attn.{name}"
        yield full, checkpoint.tensor(f"{full}.weight"), True
    for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm", "mlp.gate"):
        full = f"{prefix}.{name}"
        yield full, checkpoint.tensor(f"{full}.weight"), False
    for name in ("gate_proj", "up_proj", "down_proj"):
        stack = np.stack([checkpoint.tensor(f"{prefix}.mlp.experts.{e}.{name}.weight") for e in range(experts)])
        yield f"{prefix}.mlp.experts.{name}", stack, True  # [E, N, K]


def _write_facts(writer: Any, checkpoint: Checkpoint, experts: ExpertsConfig) -> None:
    config = checkpoint.config
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_context_tokens)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_expert_count(experts.num_experts)
    writer.add_expert_used_count(experts.top_k)
    writer.add_expert_feed_forward_length(experts.width)
    # No vocabulary: token ids go in and come out.
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
