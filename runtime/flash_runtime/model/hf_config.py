"""config.json of a Hugging Face checkpoint, parsed once into a ModelConfig. Refuses what no family could honour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from flash_runtime.model.checkpoint import ExpertsConfig, ModelConfig, Multipliers, SlidingWindow
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.hf_rope import Positive, parse_rope

_DEFAULT_WINDOW: Final = {f"{name}ForCausalLM": 4096 for name in ("Mistral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe")}
"""Where the file leaves sliding_window out, as the architectures' own code has it; most of them switch it off."""
_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"


class _HfConfig(BaseModel):
    """The keys we read; families add many more that do not change the arithmetic."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architectures: list[str] = Field(min_length=1)
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int | None = Field(default=None, ge=1)
    head_dim: int | None = Field(default=None, ge=1)
    intermediate_size: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    rms_norm_eps: float = Field(default=1e-6, ge=0)
    max_position_embeddings: int = Field(ge=1)
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    mlp_bias: bool = False
    clip_qkv: float | None = None
    use_sliding_window: bool | None = None
    sliding_window: int | None = None
    max_window_layers: int = Field(default=28, ge=0)
    layer_types: list[str] | None = None
    # Read by hf_rope; here only their kind is checked.
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None

    # Granite.
    embedding_multiplier: Positive = 1.0
    attention_multiplier: Positive = 1.0
    residual_multiplier: Positive = 1.0
    logits_scaling: Positive = 1.0

    # Mixture of experts.
    num_experts: int | None = Field(default=None, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = Field(default=None, ge=1)
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None


def parse_config(path: Path) -> ModelConfig:
    """Read and check one config.json."""
    try:
        document = json.loads(path.read_bytes())
        config = _HfConfig.model_validate(document)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; a Hugging Face folder holds a config.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    _refuse_what_changes_the_arithmetic(path, config)
    rope = parse_rope(
        path,
        document,
        architecture=config.architectures[0],
        max_position_embeddings=config.max_position_embeddings,
    )
    return ModelConfig(
        architecture=config.architectures[0],
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        mlp_width=config.intermediate_size,
        vocab_size=config.vocab_size,
        norm_eps=config.rms_norm_eps,
        max_context_tokens=max(config.max_position_embeddings, rope.reach_tokens),
        rope=rope,
        tied_embeddings=config.tie_word_embeddings,
        experts=_experts(path, config),
        window=_window(path, config),
        multipliers=Multipliers(
            embedding=config.embedding_multiplier,
            attention=config.attention_multiplier,
            residual=config.residual_multiplier,
            logits_divisor=config.logits_scaling,
        ),
    )


def _refuse_what_changes_the_arithmetic(path: Path, config: _HfConfig) -> None:
    if config.hidden_act not in ("silu", "swish"):
        raise UnsupportedModel(f"{path}: hidden_act is {config.hidden_act!r}; this release computes silu")
    if config.mlp_bias:
        raise UnsupportedModel(f"{path}: mlp_bias is true; this release computes MLPs without bias")
    if config.clip_qkv is not None:
        raise UnsupportedModel(f"{path}: clip_qkv is {config.clip_qkv}; this release does not clip queries and keys")
    if unknown := set(config.layer_types or ()) - {_FULL, _SLIDING}:
        raise UnsupportedModel(f"{path}: layer_types has {min(unknown)!r}; this release knows {_FULL} and {_SLIDING}")


def _window(path: Path, config: _HfConfig) -> SlidingWindow | None:
    tokens, types = config.sliding_window, config.layer_types
    if "sliding_window" not in config.model_fields_set:
        tokens = _DEFAULT_WINDOW.get(config.architectures[0])
    if types is not None and len(types) != config.num_hidden_layers:
        raise CheckpointError(
            f"{path}: layer_types has {len(types)} entries, num_hidden_layers is {config.num_hidden_layers}"
        )
    if not tokens:  # files write null or 0 for none
        if types is not None and _SLIDING in types:
            raise CheckpointError(f"{path}: layer_types has {_SLIDING}, sliding_window is {tokens}")
        return None
    if tokens < 0:
        raise CheckpointError(f"{path}: sliding_window is {tokens}; at least 1 is expected")
    return SlidingWindow(
        tokens=tokens,
        switched_on=config.use_sliding_window,
        first_layer=config.max_window_layers,
        layers=None if types is None else tuple(kind == _SLIDING for kind in types),
    )


def _experts(path: Path, config: _HfConfig) -> ExpertsConfig | None:
    if config.num_experts is None:
        return None
    if config.num_experts_per_tok is None:
        raise CheckpointError(f"{path}: num_experts is set, num_experts_per_tok is missing")
    if not 1 <= config.num_experts_per_tok <= config.num_experts:
        raise CheckpointError(
            f"{path}: num_experts_per_tok ({config.num_experts_per_tok}) must be between 1 and "
            f"num_experts ({config.num_experts})"
        )
    dense = frozenset(
        layer
        for layer in range(config.num_hidden_layers)
        if layer in (config.mlp_only_layers or ()) or (layer + 1) % max(config.decoder_sparse_step, 1)
    )
    return ExpertsConfig(
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        width=config.moe_intermediate_size or config.intermediate_size,
        normalise=config.norm_topk_prob,
        dense_layers=dense,
        shared_width=config.shared_expert_intermediate_size,
    )
