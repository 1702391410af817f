"""A checkpoint made from another one: the base and a small file that says what is different. Seen under the same names.

    carved   the base's FFNs as a shared expert and routed experts (the architecture of Qwen2-MoE): the order of the
             neurons, routers, and what training changed in `down`
    draft    layers of its own around the base's embedding

The file is in the safetensors format, its header's metadata holds `Derivation` as JSON. Changes are stored in int4
blocks, whole weights in int8 with a scale for each row. Corrupt files, and files that belong to another base, are
refused. Knows nothing about how the difference was trained.

Legend: H hidden, F inner features of the dense FFN, E routed experts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from flash_runtime.kernels.int4 import INT4_GROUP, Int4Blocks
from flash_runtime.model.cache import file_sha256
from flash_runtime.model.checkpoint import About, Checkpoint, ExpertsConfig, FloatArray, ModelConfig, TextAssets
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.shipped import DIFFERENCE

FORMAT: Final = 1
METADATA: Final = "flashplane"
_MLP: Final = re.compile(r"model\.layers\.(\d+)\.mlp\.(.+)\.weight")
_EXPERT: Final = re.compile(r"experts\.(\d+)\.(gate_proj|up_proj|down_proj)")
_SHARED: Final = "shared_expert."

Count = Annotated[int, Field(ge=1)]


class Carving(BaseModel):
    """How the base's FFNs were cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared_width: Count
    experts: Count
    expert_width: Count
    top_k: Count
    dense_layers: tuple[int, ...]


class Derivation(BaseModel):
    """What the small file says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    kind: Literal["carved", "draft"]
    name: str
    base: str
    """The base's name, for people."""
    base_sha256: str
    """Of the base's file; no other one fits."""
    carving: Carving | None = None
    layers: Count | None = None
    """Of a draft."""
    trained_tokens: Annotated[int, Field(ge=0)]
    """Tokens that training saw; 0 = carved in closed form, not trained."""
    provenance: dict[str, str] = {}
    """Seed, data and package versions, for people."""


class DerivedCheckpoint:
    """An opened folder of base and difference."""

    def __init__(self, path: Path, base: Checkpoint, facts: Derivation, tensors: dict[str, NDArray[Any]]) -> None:
        self.path = path
        self.facts = facts
        self.config = _config(path, base.config, facts)
        self._base = base
        self._tensors = tensors
        self._kept: dict[str, tuple[int, FloatArray]] = {}

    @classmethod
    def open(cls, folder: Path, base: Checkpoint) -> DerivedCheckpoint:
        """Read the difference; raises CheckpointError for a damaged one, or one that belongs to another base."""
        path = folder / DIFFERENCE
        facts, tensors = read_difference(path)
        if (found := file_sha256(base.path)) != facts.base_sha256:
            raise CheckpointError(
                f"{path}: was made from {facts.base} with sha256 {facts.base_sha256}, the base beside it has {found}"
            )
        return cls(path, base, facts, tensors)

    @property
    def about(self) -> About:
        base = self._base.about
        kind, tokens = self.facts.kind, self.facts.trained_tokens
        made = f"{kind} from {self.facts.base}, "
        return About(
            name=self.facts.name,
            license=base.license,
            attribution=f"made from {base.attribution}",
            training=made + (f"trained on {tokens:,} tokens" if tokens else "in closed form, not trained"),
        )

    def text(self) -> TextAssets:
        return self._base.text()

    def has(self, name: str) -> bool:
        if self.facts.kind == "draft":
            return name == "model.embed_tokens.weight" or name in self._tensors or f"{name}.q" in self._tensors
        return self._base.has(name)

    def file(self, name: str) -> Path:
        return self.path

    def left_over(self, used: Collection[str]) -> list[str]:
        if self.facts.kind == "draft":
            return sorted(
                {name.removesuffix(".q") for name in self._tensors if not name.endswith(".scale")} - set(used)
            )
        outside = {name for name in used if _MLP.fullmatch(name) is None}
        dense = {
            f"model.layers.{layer}.mlp.{part}_proj.weight"
            for layer in range(self.config.num_layers)
            for part in ("gate", "up", "down")
        }
        return self._base.left_over(outside | dense)

    def tensor(self, name: str, *, part: int | None = None) -> FloatArray:
        if self.facts.kind == "draft":
            return self._base.tensor(name) if name == "model.embed_tokens.weight" else self._whole(name)
        if (place := self._placed(name)) is None:
            return self._base.tensor(name, part=part)
        layer, module = place
        if module == "gate":
            return self._stored(f"layers.{layer}.router").astype(np.float32)
        if module == "shared_expert_gate":
            return np.zeros((1, self.config.hidden_size), np.float32)
        projection, columns, factor = self._cut(module)
        whole = self._ordered(layer, projection)
        return whole[:, columns] * np.float32(factor) if projection == "down_proj" else whole[columns]

    def int4_blocks(self, name: str, *, part: int | None = None) -> Int4Blocks | None:
        if self.facts.kind == "draft":
            return self._base.int4_blocks(name) if name == "model.embed_tokens.weight" else None
        if (place := self._placed(name)) is None:
            return self._base.int4_blocks(name, part=part)
        layer, module = place
        if module in ("gate", "shared_expert_gate"):
            return None
        projection, columns, _ = self._cut(module)
        if projection == "down_proj" or f"layers.{layer}.{projection}.q" in self._tensors:
            return None  # the blocks of `down` run across the order
        blocks = self._base.int4_blocks(f"model.layers.{layer}.mlp.{projection}.weight")
        if blocks is None:
            return None
        order = self._order(layer)[columns]
        return Int4Blocks(q=blocks.q[order], d=blocks.d[order], m=blocks.m[order])

    def _placed(self, name: str) -> tuple[int, str] | None:
        """Layer and module of a tensor that was cut."""
        match = _MLP.fullmatch(name)
        carving = self.facts.carving
        if match is None or carving is None or int(match[1]) in carving.dense_layers:
            return None
        return int(match[1]), match[2]

    def _cut(self, module: str) -> tuple[str, slice, float]:
        """Projection, places of its neurons in the order, and what its output is to be multiplied by.

        The engine weighs the shared expert by the sigmoid of a gate, which is 1/2 here, and each routed expert by a
        softmax over all, which is about 1 of so many experts: the factors make both count whole.
        """
        carving = self.facts.carving
        assert carving is not None
        if module.startswith(_SHARED):
            return module.removeprefix(_SHARED), slice(0, carving.shared_width), 2.0
        match = _EXPERT.fullmatch(module)
        if match is None or int(match[1]) >= carving.experts:
            raise CheckpointError(f"{self.path}: has no module {module}")
        start = carving.shared_width + int(match[1]) * carving.expert_width
        return match[2], slice(start, start + carving.expert_width), float(carving.experts)

    def _order(self, layer: int) -> NDArray[np.intp]:
        order = self._stored(f"layers.{layer}.order").astype(np.intp)
        if not np.array_equal(np.sort(order), np.arange(self.config.mlp_width)):
            raise CheckpointError(f"{self.path}: tensor layers.{layer}.order is not an order of the neurons")
        return order

    def _ordered(self, layer: int, projection: str) -> FloatArray:
        """The base's projection with its neurons in order, and its change; kept, because the experts ask in turn."""
        if self._kept.get(projection, (None, None))[0] != layer:
            weight = self._base.tensor(f"model.layers.{layer}.mlp.{projection}.weight")
            order, change = self._order(layer), f"layers.{layer}.{projection}"
            weight = weight[:, order] if projection == "down_proj" else weight[order]
            if f"{change}.q" in self._tensors:
                weight = weight + unpack_change(self._stored(f"{change}.q"), self._stored(f"{change}.scale"))
            self._kept[projection] = layer, weight
        return self._kept[projection][1]

    def _whole(self, name: str) -> FloatArray:
        if f"{name}.q" in self._tensors:
            scale = self._stored(f"{name}.scale").astype(np.float32)
            return self._stored(f"{name}.q").astype(np.float32) * scale[:, None]
        return self._stored(name).astype(np.float32)

    def _stored(self, name: str) -> NDArray[Any]:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path}: tensor {name} is missing") from None


def read_difference(path: Path) -> tuple[Derivation, dict[str, NDArray[Any]]]:
    """Facts and tensors of one file; raises CheckpointError."""
    try:
        with safe_open(path, framework="np") as file:
            facts = Derivation.model_validate_json((file.metadata() or {}).get(METADATA, "null"))
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or METADATA
        raise CheckpointError(f"{path}: {where}: {first['msg']}, found {first['input']!r:.80}") from error


def facts_json(facts: Derivation) -> dict[str, str]:
    """The metadata of a file to be written."""
    return {METADATA: json.dumps(facts.model_dump(mode="json"), sort_keys=True)}


def pack_change(change: FloatArray) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """A change [N, K] in four bits: -7..7 times a step for each 32 input features, two of them in a byte.

    Raises ValueError unless K is a multiple of 32.
    """
    n, k = change.shape
    if k % INT4_GROUP:
        raise ValueError(f"a change has {k} input features, a multiple of {INT4_GROUP} is needed")
    groups = change.reshape(n, -1, INT4_GROUP)
    step = (np.abs(groups).max(axis=2) / 7).astype(np.float16)  # [N, K / 32]
    divisor = np.where(step > 0, step, np.float16(1)).astype(np.float32)[:, :, None]
    q = (np.clip(np.rint(groups / divisor), -7, 7) + 8).astype(np.uint8).reshape(n, k)
    return (q[:, 0::2] | (q[:, 1::2] << 4)).astype(np.uint8), step.astype(np.float16)


def unpack_change(packed: NDArray[np.uint8], step: NDArray[np.float16]) -> FloatArray:
    """The inverse of `pack_change`, up to rounding."""
    q = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1).astype(np.float32) - 8
    spread: FloatArray = q * step.astype(np.float32).repeat(INT4_GROUP, axis=1)
    return spread


def _config(path: Path, base: ModelConfig, facts: Derivation) -> ModelConfig:
    if facts.kind == "draft":
        if facts.layers is None:
            raise CheckpointError(f"{path}: layers is missing, a draft needs it")
        return replace(base, num_layers=facts.layers)
    carving = facts.carving
    if carving is None:
        raise CheckpointError(f"{path}: carving is missing, a carved model needs it")
    width = carving.shared_width + carving.experts * carving.expert_width
    if width != base.mlp_width or carving.top_k > carving.experts:
        raise CheckpointError(f"{path}: carving has {width} neurons in all, its base {base.mlp_width}")
    return replace(
        base,
        architecture="Qwen2MoeForCausalLM",
        experts=ExpertsConfig(
            num_experts=carving.experts,
            top_k=carving.top_k,
            width=carving.expert_width,
            normalise=False,
            dense_layers=frozenset(carving.dense_layers),
            shared_width=carving.shared_width,
        ),
    )
