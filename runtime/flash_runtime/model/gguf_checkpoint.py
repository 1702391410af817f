"""A checkpoint in one GGUF file, seen under the Hugging Face names and in the Hugging Face order of rows.

llama.cpp pairs neighbours in RoPE for the `llama` architecture, so its converter interleaves the two halves of every
head of q and k; they are put back here. Experts are stacked in one tensor there and are read one at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import Int4Blocks
from flash_runtime.model.checkpoint import About, ExpertsConfig, FloatArray, ModelConfig, TextAssets
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.gguf_blocks import split_blocks
from flash_runtime.model.gguf_file import GgufFile, open_gguf
from flash_runtime.model.gguf_tokenizer import text_assets
from flash_runtime.model.rope import Rope

ARCHITECTURES: Final = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                        "qwen3moe": "Qwen3MoeForCausalLM"}  # fmt: skip
"""GGUF's `general.architecture` and the name of the same in the Hugging Face layout."""

_MIXTRAL: Final = "MixtralForCausalLM"
"""What GGUF calls a `llama` with experts."""

_INTERLEAVED: Final = frozenset({"llama"})
"""Architectures whose q and k llama.cpp's converter reorders."""

_TYPES: Final = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
_ROPE_DIVISORS: Final = "rope_freqs.weight"
_OUTER: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INNER: Final = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_IN_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_EXPERT: Final = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)")
_EXPERT_PARTS: Final = {
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "w1": "gate",
    "w3": "up",
    "w2": "down",
}


@dataclass(frozen=True)
class _Raw:
    """One tensor as it lies in the file."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    rows: NDArray[np.uint8]  # [rows, bytes of a row]


class GgufCheckpoint:
    """An opened GGUF file."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self.path = file.path
        self.config = config
        self._file = file

    @classmethod
    def open(cls, path: Path) -> GgufCheckpoint:
        """Read the metadata; refuses what no family could honour."""
        file = open_gguf(path)
        return cls(file, _Metadata(file).config())

    @property
    def about(self) -> About:
        metadata = self._file.metadata
        name = str(metadata.get("general.name") or metadata.get("general.basename") or self.path.stem)
        author = metadata.get("general.organization") or metadata.get("general.author")
        return About(
            name=name,
            license=str(metadata.get("general.license") or "unknown"),
            attribution=f"{name} by {author}" if author else name,
        )

    def text(self) -> TextAssets:
        return text_assets(self._file.metadata, where=str(self.path))

    def has(self, name: str) -> bool:
        return _gguf_name(name)[0] in self._file.tensors

    def left_over(self, used: Collection[str]) -> list[str]:
        return sorted(self._file.tensors.keys() - {_gguf_name(name)[0] for name in used} - {_ROPE_DIVISORS})

    def file(self, name: str) -> Path:
        return self.path

    def tensor(self, name: str, *, part: int | None = None) -> FloatArray:
        raw = self._raw(name, part)
        values = np.asarray(dequantize(raw.rows, raw.kind), dtype=np.float32).reshape(raw.shape)
        return self._in_order(name, values)

    def int4_blocks(self, name: str, *, part: int | None = None) -> Int4Blocks | None:
        raw = self._raw(name, part)
        blocks = split_blocks(raw.rows, raw.kind)
        if blocks is None or len(raw.shape) != 2:
            return None
        return Int4Blocks(*(self._in_order(name, values) for values in (blocks.q, blocks.d, blocks.m)))

    def _in_order(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Rows in the Hugging Face order."""
        if self._file.metadata["general.architecture"] in _INTERLEAVED:
            for module, num_heads in (("q_proj", self.config.num_heads), ("k_proj", self.config.num_kv_heads)):
                if name.endswith(f"self_attn.{module}.weight"):
                    if values.ndim != 2 or len(values) % (2 * num_heads):
                        shape = list(values.shape)
                        raise CheckpointError(f"{self.path}: {name} of shape {shape} has no {num_heads} heads")
                    return halves_from_neighbours(values, num_heads=num_heads)
        return values

    def _raw(self, hf_name: str, part: int | None) -> _Raw:
        """The bytes of one tensor, or of one expert of a stack."""
        name, expert = _gguf_name(hf_name)
        expert = part if expert is None else expert
        entry = self._file.tensors.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: tensor {name} ({hf_name}) is missing")
        try:
            kind = GGMLQuantizationType(entry.type_id)
        except ValueError:
            kind = None
        if kind is None or kind.name not in _TYPES:
            found = kind.name if kind is not None else f"type {entry.type_id}"
            raise UnsupportedModel(f"{self.path}: tensor {name} is {found}; this release reads {', '.join(_TYPES)}")
        block_elements, block_bytes = GGML_QUANT_SIZES[kind]
        shape, offset = entry.shape, entry.offset
        if shape[-1] % block_elements:
            raise CheckpointError(f"{self.path}: tensor {name} has rows of {shape[-1]}, not whole {kind.name} blocks")
        row_bytes = shape[-1] // block_elements * block_bytes
        if expert is not None:
            if len(shape) != 3 or expert >= shape[0]:
                raise CheckpointError(
                    f"{self.path}: tensor {name} has shape {list(shape)}, expert {expert} is asked for"
                )
            shape = shape[1:]
            offset += expert * shape[0] * row_bytes
        rows = math.prod(shape[:-1])
        if offset + rows * row_bytes > len(self._file.data):
            raise CheckpointError(
                f"{self.path}: {len(self._file.data)} bytes long, tensor {name} ends at {offset + rows * row_bytes}: "
                "the file is cut off, download it again"
            )
        raw = np.frombuffer(self._file.data, dtype=np.uint8, count=rows * row_bytes, offset=offset)
        return _Raw(kind, shape, raw.reshape(rows, row_bytes))


def halves_from_neighbours(weight: NDArray[Any], *, num_heads: int) -> NDArray[Any]:
    """Undo llama.cpp's row order: pairs (2i, 2i + 1) of a head become (i, i + d/2). [heads * d, H] -> the same."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def _gguf_name(name: str) -> tuple[str, int | None]:
    """The tensor that holds a Hugging Face tensor, and which expert of it."""
    if name in _OUTER:
        return _OUTER[name], None
    if match := _IN_LAYER.fullmatch(name):
        layer, inner, kind = match.groups()
        if inner in _INNER:
            return f"blk.{layer}.{_INNER[inner]}.{kind}", None
        if (expert := _EXPERT.fullmatch(inner)) and expert[2] in _EXPERT_PARTS:
            return f"blk.{layer}.ffn_{_EXPERT_PARTS[expert[2]]}_exps.{kind}", int(expert[1])
    return name, None


class _Metadata:
    """The architecture's keys, typed."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._architecture = str(file.metadata.get("general.architecture"))

    def config(self) -> ModelConfig:
        if self._architecture not in ARCHITECTURES:
            known = ", ".join(sorted(ARCHITECTURES))
            raise UnsupportedModel(
                f"{self._file.path}: general.architecture is {self._architecture!r}; this release reads {known}"
            )
        hidden, heads = self._count("embedding_length"), self._count("attention.head_count")
        head_dim = self._count("attention.key_length", default=hidden // heads)
        embedding = self._file.tensors.get("token_embd.weight")
        if embedding is None:
            raise CheckpointError(f"{self._file.path}: tensor token_embd.weight is missing")
        experts = self._experts()
        mixtral = experts is not None and self._architecture == "llama"
        if window := self._value("attention.sliding_window"):
            raise UnsupportedModel(
                f"{self._file.path}: attention.sliding_window is {window}; from GGUF this release reads models that "
                "attend to the whole context, take the Hugging Face folder instead"
            )
        return ModelConfig(
            architecture=_MIXTRAL if mixtral else ARCHITECTURES[self._architecture],
            hidden_size=hidden,
            num_layers=self._count("block_count"),
            num_heads=heads,
            num_kv_heads=self._count("attention.head_count_kv", default=heads),
            head_dim=head_dim,
            mlp_width=self._count("feed_forward_length", default=experts.width if experts else None),
            vocab_size=embedding.shape[0],
            norm_eps=self._real("attention.layer_norm_rms_epsilon"),
            max_context_tokens=self._count("context_length"),
            rope=self._rope(head_dim),
            tied_embeddings="output.weight" not in self._file.tensors,
            experts=experts,
        )

    def _rope(self, head_dim: int) -> Rope:
        if (turned := self._count("rope.dimension_count", default=head_dim)) != head_dim:
            raise UnsupportedModel(f"{self._file.path}: RoPE turns {turned} of {head_dim} features; all is supported")
        if (scaling := self._value("rope.scaling.type")) not in (None, "none"):
            raise UnsupportedModel(f"{self._file.path}: RoPE scaling {scaling!r} is not supported by this release")
        return Rope(self._real("rope.freq_base", default=10_000.0), divisors=self._rope_divisors())

    def _rope_divisors(self) -> tuple[float, ...] | None:
        """Llama 3.1's stretching, which llama.cpp writes as a tensor."""
        entry = self._file.tensors.get(_ROPE_DIVISORS)
        if entry is None:
            return None
        count = math.prod(entry.shape)
        if entry.type_id != GGMLQuantizationType.F32 or entry.offset + 4 * count > len(self._file.data):
            raise CheckpointError(f"{self._file.path}: tensor {_ROPE_DIVISORS} is not float32 or is cut off")
        return tuple(np.frombuffer(self._file.data, dtype="<f4", count=count, offset=entry.offset).tolist())

    def _experts(self) -> ExpertsConfig | None:
        if not self._value("expert_count"):
            return None
        return ExpertsConfig(
            num_experts=self._count("expert_count"),
            top_k=self._count("expert_used_count"),
            width=self._count("expert_feed_forward_length", default=self._value("feed_forward_length")),
            normalise=True,  # llama.cpp always normalises the weights of these families
        )

    def _value(self, key: str) -> Any:
        return self._file.metadata.get(f"{self._architecture}.{key}")

    def _count(self, key: str, *, default: int | None = None) -> int:
        value = self._number(key, (int,), default)
        if value < 1:
            raise CheckpointError(f"{self._file.path}: {self._architecture}.{key} is {value}; at least 1 is expected")
        return int(value)

    def _real(self, key: str, *, default: float | None = None) -> float:
        return float(self._number(key, (int, float), default))

    def _number(self, key: str, kinds: Iterable[type], default: float | None) -> Any:
        value = self._value(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, tuple(kinds)):
            found = "missing" if value is None else f"{value!r:.80}, not a single number"
            raise CheckpointError(f"{self._file.path}: metadata {self._architecture}.{key} is {found}")
        return value
