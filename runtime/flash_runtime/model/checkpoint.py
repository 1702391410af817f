"""What every checkpoint offers, whatever its format: facts, tensors one at a time as float32, text assets.

Tensor names are those of the Hugging Face layout; a format with other names translates. Knows no family and no
number format but float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import Int4Blocks
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.rope import Rope
from flash_runtime.packed import is_packed

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ExpertsConfig:
    """The mixture-of-experts part of a checkpoint's facts."""

    num_experts: int
    top_k: int
    width: int
    normalise: bool
    """What the checkpoint says of its router's weights; some families always normalise."""
    dense_layers: frozenset[int] = frozenset()
    """Layers with one dense MLP instead."""
    shared_width: int | None = None
    """Hidden features of the expert that every token passes; None = there is none."""


@dataclass(frozen=True)
class SlidingWindow:
    """A bound on how far back tokens see. Which layers it binds, and whether it is on, each family knows."""

    tokens: int
    switched_on: bool | None
    """What the checkpoint says about using it; None = nothing."""
    first_layer: int
    """Where it begins in the families that leave the lower layers unbound."""
    layers: tuple[bool, ...] | None = None
    """Whether it binds each layer, where the checkpoint lists them."""


@dataclass(frozen=True)
class Multipliers:
    """Constants of Granite models, as their files name them."""

    embedding: float = 1.0
    attention: float = 1.0
    """Factor on the scores, in place of 1 / sqrt(head_dim)."""
    residual: float = 1.0
    logits_divisor: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The facts a family needs to write a layer plan."""

    architecture: str
    """The name the checkpoint gives itself, e.g. `LlamaForCausalLM` or GGUF's `llama`."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_size: int
    norm_eps: float
    max_context_tokens: int
    rope: Rope
    tied_embeddings: bool
    experts: ExpertsConfig | None = None
    window: SlidingWindow | None = None
    multipliers: Multipliers = field(default_factory=Multipliers)
    """Only the families that know them read them."""


@dataclass(frozen=True)
class TextAssets:
    """Everything the gateway needs to turn text into token ids and back."""

    tokenizer_json: bytes
    """In the form of the Hugging Face `tokenizers` library."""
    chat_template: str | None
    """Jinja; None = the model was not trained to chat."""
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    special_tokens: dict[str, int] = field(default_factory=dict)
    """Token ids by their text."""


@dataclass(frozen=True)
class About:
    """Whose work this is."""

    name: str
    license: str
    attribution: str
    training: str | None = None
    """How it was made, where we made it."""


class Checkpoint(Protocol):
    """One opened checkpoint. Raises CheckpointError naming the file when something is missing or damaged."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def about(self) -> About: ...

    def text(self) -> TextAssets:
        """Read the tokenizer and the chat template."""

    def has(self, name: str) -> bool:
        """Whether the tensor is there."""

    def tensor(self, name: str, *, part: int | None = None) -> FloatArray:
        """Read one tensor as float32, rows = output features; of a stack of tensors, the one that `part` counts."""

    def int4_blocks(self, name: str, *, part: int | None = None) -> Int4Blocks | None:
        """The same tensor without loss, where the file holds it in int4 blocks of 32; None = it holds other numbers."""

    def file(self, name: str) -> Path:
        """The file that holds the tensor; the checkpoint's own path where there is no such tensor."""

    def left_over(self, used: Collection[str]) -> list[str]:
        """Weights in the file that none of the used names refers to; buffers that a model derives are not weights."""


def open_checkpoint(path: Path) -> Checkpoint:
    """A GGUF file, a folder in the Hugging Face layout, or a folder of a base and what was derived from it."""
    from flash_runtime.model.derived import DerivedCheckpoint
    from flash_runtime.model.gguf_checkpoint import GgufCheckpoint
    from flash_runtime.model.safetensors_checkpoint import SafetensorsCheckpoint
    from flash_runtime.model.shipped import BASE, DIFFERENCE

    if (path / DIFFERENCE).is_file():
        return DerivedCheckpoint.open(path, GgufCheckpoint.open(path / BASE))
    if path.is_dir():
        return SafetensorsCheckpoint.open(path)
    if is_packed(path):
        raise CheckpointError(f"{path}: is packed already; name the checkpoint that it was packed from")
    if path.is_file():
        return GgufCheckpoint.open(path)
    raise CheckpointError(f"{path}: no such file or folder; a model is a .gguf file or a Hugging Face folder")
