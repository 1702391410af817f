"""The position settings of a Hugging Face config.json, parsed into a Rope. Refuses scalings that we do not compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling, yarn_attention_factor

_DEFAULT_THETA: Final = {"MixtralForCausalLM": 1_000_000.0}
_OTHERWISE: Final = 10_000.0
"""Base of the angles where the file leaves it out, as the architectures' own code has it."""

Positive = Annotated[float, Field(gt=0, le=1e9)]
"""A factor of a model; the bound is far above any and keeps products of two finite."""


class _Settings(BaseModel):
    """rope_parameters, or the older rope_scaling; which fields count depends on rope_type."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rope_type: str = "default"
    rope_theta: float = Field(gt=1, allow_inf_nan=False)
    partial_rotary_factor: float = 1.0
    factor: Positive | None = None
    original_max_position_embeddings: int | None = Field(default=None, ge=1, le=2**31 - 1)
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    attention_factor: Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    truncate: bool = True


def parse_rope(path: Path, document: Mapping[str, Any], *, architecture: str, max_position_embeddings: int) -> Rope:
    """Newer files nest every key in rope_parameters; older ones keep some beside rope_scaling."""
    nested = {**(document.get("rope_scaling") or {}), **(document.get("rope_parameters") or {})}
    nested.setdefault("rope_type", nested.get("type") or "default")
    for key in ("rope_theta", "partial_rotary_factor"):
        if key not in nested and document.get(key) is not None:
            nested[key] = document[key]
    if document.get("original_max_position_embeddings") is not None:
        nested["original_max_position_embeddings"] = document["original_max_position_embeddings"]
    nested.setdefault("rope_theta", _DEFAULT_THETA.get(architecture, _OTHERWISE))
    try:
        settings = _Settings.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path}: the RoPE settings are malformed: {where}: {first['msg']}, found {first['input']!r:.80}"
        ) from error
    if settings.partial_rotary_factor != 1.0:
        raise UnsupportedModel(f"{path}: partial_rotary_factor is not 1; this release turns whole heads")
    return _rope(path, settings, max_position_embeddings)


def _rope(path: Path, settings: _Settings, max_position_embeddings: int) -> Rope:
    theta = settings.rope_theta

    def needed(name: str) -> float:
        value: float | None = getattr(settings, name)
        if value is None:
            raise CheckpointError(f"{path}: the RoPE settings are incomplete: {settings.rope_type} needs {name}")
        return value

    original = settings.original_max_position_embeddings or max_position_embeddings
    match settings.rope_type:
        case "default" | "dynamic":  # the same within the checkpoint's window: see rope.py
            return Rope(theta)
        case "linear":
            return Rope(theta, LinearScaling(needed("factor")))
        case "llama3":
            scaling = Llama3Scaling(
                factor=needed("factor"),
                low_freq_factor=needed("low_freq_factor"),
                high_freq_factor=needed("high_freq_factor"),
                original_context_tokens=original,
            )
            if scaling.high_freq_factor <= scaling.low_freq_factor:
                raise CheckpointError(
                    f"{path}: the RoPE settings are malformed: high_freq_factor ({scaling.high_freq_factor}) must "
                    f"exceed low_freq_factor ({scaling.low_freq_factor})"
                )
            return Rope(theta, scaling)
        case "yarn":
            factor = settings.factor or max_position_embeddings / original
            recommended = yarn_attention_factor(factor, mscale=settings.mscale, mscale_all_dim=settings.mscale_all_dim)
            return Rope(
                theta,
                YarnScaling(
                    factor=factor,
                    original_context_tokens=original,
                    attention_factor=settings.attention_factor or recommended,
                    beta_fast=settings.beta_fast or 32.0,
                    beta_slow=settings.beta_slow or 1.0,
                    truncate=settings.truncate,
                ),
            )
        case other:
            known = "default, linear, dynamic, yarn, llama3"
            raise UnsupportedModel(f"{path}: RoPE scaling {other!r} is not supported by this release; known: {known}")
