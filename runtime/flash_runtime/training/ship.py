"""What training made, as the small file that ships: see `flash_runtime.model.derived` for its form. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from flash_runtime.engine.batch import FloatArray
from flash_runtime.kernels.layout import MAX_INT8, int8_scales
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.derived import Derivation, facts_json, pack_change
from flash_runtime.training.carve import CarvedLayer

Tensors = dict[str, NDArray[Any]]


def write_carved(path: Path, facts: Derivation, base: Checkpoint, layers: Mapping[int, CarvedLayer]) -> None:
    """The carved layers as their difference from the base."""
    tensors: Tensors = {}
    for index, layer in sorted(layers.items()):
        name = f"layers.{index}"
        tensors[f"{name}.order"] = layer.order
        tensors[f"{name}.router"] = layer.router.astype(np.float16)
        for part, weight in (("gate_proj", layer.gate), ("up_proj", layer.up), ("down_proj", layer.down)):
            if weight is None:
                continue
            own = base.tensor(f"model.layers.{index}.mlp.{part}.weight")
            change = weight - (own[:, layer.order] if part == "down_proj" else own[layer.order])
            tensors[f"{name}.{part}.q"], tensors[f"{name}.{part}.scale"] = pack_change(change)
    _write(path, facts, tensors)


def write_draft(path: Path, facts: Derivation, weights: Mapping[str, FloatArray]) -> None:
    """A draft's weights by their Hugging Face names: matrices in int8 with a scale per row, vectors in float16."""
    tensors: Tensors = {}
    for name, weight in sorted(weights.items()):
        if weight.ndim == 1:
            tensors[name] = weight.astype(np.float16)
            continue
        scale = int8_scales(weight)
        steps = np.rint(weight / np.where(scale > 0, scale, np.float32(1))[:, None])
        tensors[f"{name}.q"] = np.clip(steps, -MAX_INT8, MAX_INT8).astype(np.int8)
        tensors[f"{name}.scale"] = scale
    _write(path, facts, tensors)


def _write(path: Path, facts: Derivation, tensors: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, facts_json(facts))
    temporary.replace(path)
