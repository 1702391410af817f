"""config.json of a Hugging Face checkpoint, parsed once into a ModelConfig. Refuses what no family could honour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from flash_runtime.model.checkpoint import ExpertsConfig, ModelConfig, Multipliers
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.hf_rope import Positive, parse_rope


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
    use_sliding_window: bool = True
    sliding_window: int | None = None
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
    mlp_only_layers: list[int] = Field(default_factory=list)


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
    if config.sliding_window is not None and config.use_sliding_window:
        raise UnsupportedModel(
            f"{path}: sliding_window is {config.sliding_window}; this release attends to the whole context"
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
        if layer in config.mlp_only_layers or (layer + 1) % max(config.decoder_sparse_step, 1)
    )
    return ExpertsConfig(
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        width=config.moe_intermediate_size or config.intermediate_size,
        normalise=config.norm_topk_prob,
        dense_layers=dense,
        shared_width=config.shared_expert_intermediate_size,
    )
