"""A LoRA adapter on disk, as the library PEFT lays it out: adapter_config.json and adapter_model.safetensors.

Each adapted matrix W [N, K] has two thin ones; what a tuned model multiplies with is W + alpha / R * B A (Hu et al.
2021, arXiv 2106.09685). Damaged adapters, and those of another model, are refused. No torch.

Legend: N output features, K input features, R the adapter's rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flash_runtime.engine.batch import FloatArray
from flash_runtime.model.cache import file_sha256
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.safetensors_checkpoint import weight_files
from flash_runtime.model.shipped import BASE, DIFFERENCE

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_METADATA: Final = "flashplane"
_PREFIX: Final = "base_model.model."
_NOT_MERGED: Final = ("use_rslora", "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


class AdapterFacts(BaseModel):
    """What an adapter made here says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    base: str
    """The tuned model's name, for people."""
    base_digest: str
    """Of its weights; the adapter fits no others."""
    trained_tokens: Annotated[int, Field(ge=0)]
    provenance: dict[str, str]
    """Seed, data and package versions, for people."""


@dataclass(frozen=True)
class Pair:
    """The two thin matrices of one module."""

    a: FloatArray  # [R, K]
    b: FloatArray  # [N, R]


@dataclass(frozen=True)
class Adapter:
    """Changes by the name of the module they belong to, such as `model.layers.0.self_attn.q_proj`."""

    rank: int
    alpha: float
    pairs: Mapping[str, Pair]
    facts: AdapterFacts | None
    """None = made elsewhere."""

    def change(self, module: str) -> FloatArray | None:
        """What is added to the module's weight [N, K]; None = nothing."""
        pair = self.pairs.get(module)
        return None if pair is None else (pair.b @ pair.a) * np.float32(self.alpha / self.rank)


class _Config(BaseModel):
    """The keys of adapter_config.json that we read."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(gt=0)]
    bias: Literal["none"] = "none"


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """Tells weights apart: a digest of the digests of the files that hold them."""
    path = checkpoint.path
    if path.is_file():
        files = [path]
    elif (path / DIFFERENCE).is_file():
        files = [path / BASE, path / DIFFERENCE]
    else:
        files = weight_files(path)
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()


def write_adapter(folder: Path, adapter: Adapter, *, base: str) -> None:
    """Write both files; `base` is what PEFT would load the adapter onto."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in adapter.pairs}),
        "inference_mode": True,
    }
    tensors = {}
    for module, pair in adapter.pairs.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(pair.a)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(pair.b)
    metadata = {"format": "pt"}
    if adapter.facts is not None:
        metadata[_METADATA] = json.dumps(adapter.facts.model_dump(mode="json"), sort_keys=True)
    temporary = folder / f".{WEIGHTS}.partial"
    save_file(tensors, temporary, metadata)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / WEIGHTS)


def read_adapter(folder: Path) -> Adapter:
    """Raises CheckpointError for a damaged adapter, UnsupportedModel for one that is more than B A."""
    config, tensors, metadata = _config(folder / CONFIG), *_tensors(folder / WEIGHTS)
    halves: dict[str, dict[str, FloatArray]] = {}
    for name, array in tensors.items():
        module, _, half = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(_PREFIX) or half not in ("lora_A", "lora_B"):
            raise UnsupportedModel(f"{folder / WEIGHTS}: tensor {name} is no part of a plain LoRA adapter")
        halves.setdefault(module, {})[half] = array
    pairs = {}
    for module, found in halves.items():
        a, b = found.get("lora_A"), found.get("lora_B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != config.r or b.shape[1] != config.r:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {module}: needs lora_A [{config.r}, …] and lora_B [… , {config.r}], found "
                + ", ".join(f"{half} {list(array.shape)}" for half, array in sorted(found.items()))
            )
        pairs[module] = Pair(a, b)
    if not pairs:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no adapter")
    return Adapter(config.r, config.lora_alpha, pairs, _facts(folder / WEIGHTS, metadata))


def check_belongs(adapter: Adapter, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for an adapter that was made for other weights."""
    facts = adapter.facts
    if facts is not None and (found := checkpoint_digest(checkpoint)) != facts.base_digest:
        raise CheckpointError(
            f"the adapter was made for {facts.base} with the weights {facts.base_digest[:12]}…, "
            f"{checkpoint.path} has {found[:12]}…: name the model that was tuned"
        )


def _config(path: Path) -> _Config:
    try:
        document: Any = json.loads(path.read_bytes())
        config = _Config.model_validate(document)
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; an adapter is a folder with {CONFIG} and {WEIGHTS}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnsupportedModel(f"{path}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if set_ := [name for name in _NOT_MERGED if (config.model_extra or {}).get(name)]:
        raise UnsupportedModel(f"{path}: {set_[0]} is set; plain LoRA is merged here, merge this one with PEFT")
    return config


def _tensors(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _facts(path: Path, metadata: Mapping[str, str]) -> AdapterFacts | None:
    if _METADATA not in metadata:
        return None
    try:
        return AdapterFacts.model_validate_json(metadata[_METADATA])
    except ValidationError as error:
        raise CheckpointError(f"{path}: its facts are damaged ({error.errors()[0]['msg']})") from error
