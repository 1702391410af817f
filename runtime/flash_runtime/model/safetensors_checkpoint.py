"""A checkpoint in the Hugging Face layout: config.json, *.safetensors (sharded or not), tokenizer.json and friends.

Tensors are read from a mapping, one at a time. Knows no family: whether a tensor should be there is not its question.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open

from flash_runtime.kernels.int4 import Int4Blocks
from flash_runtime.model.checkpoint import About, FloatArray, ModelConfig, TextAssets
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.hf_config import parse_config
from flash_runtime.model.hf_text import read_about, read_text_assets

_READABLE: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsCheckpoint:
    """An opened folder."""

    def __init__(self, path: Path, config: ModelConfig, entries: Mapping[str, _Entry]) -> None:
        self.path = path
        self.config = config
        self._entries = entries

    @classmethod
    def open(cls, path: Path) -> SafetensorsCheckpoint:
        """Read config.json and the headers of all shards."""
        config = parse_config(path / "config.json")
        entries: dict[str, _Entry] = {}
        for shard in weight_files(path):
            entries.update(_read_entries(shard))
        return cls(path, config, entries)

    @property
    def about(self) -> About:
        return read_about(self.path)

    def text(self) -> TextAssets:
        return read_text_assets(self.path, vocab_size=self.config.vocab_size)

    def has(self, name: str) -> bool:
        return name in self._entries

    def int4_blocks(self, name: str, *, part: int | None = None) -> Int4Blocks | None:
        return None  # the layout has no int4 blocks of its own

    def file(self, name: str) -> Path:
        return self._entries[name].file if name in self._entries else self.path

    def left_over(self, used: Collection[str]) -> list[str]:
        derived = {"lm_head.weight"} if self.config.tied_embeddings else set()
        return sorted(
            name
            for name in self._entries.keys() - set(used) - derived
            if not name.endswith(("rotary_emb.inv_freq", "masked_bias"))
        )

    def tensor(self, name: str, *, part: int | None = None) -> FloatArray:
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: tensor {name} is missing; the download may be incomplete")
        dtype = _READABLE.get(entry.dtype)
        if dtype is None:
            readable = ", ".join(sorted(_READABLE))
            raise CheckpointError(f"{entry.file}: tensor {name} is {entry.dtype}; this release reads {readable}")
        raw = np.memmap(entry.file, dtype=dtype, mode="r", offset=entry.offset, shape=entry.shape)
        if part is not None:
            raw = _one_of(raw, part, where=f"{self.path}: tensor {name}")
        if entry.dtype == "BF16":  # the upper half of a float32
            return np.left_shift(raw, np.uint32(16), dtype=np.uint32).view(np.float32)
        return np.asarray(raw, dtype=np.float32)


def _one_of(stack: np.memmap[Any, Any], part: int, *, where: str) -> np.memmap[Any, Any]:
    if stack.ndim < 2 or part >= len(stack):
        raise CheckpointError(f"{where} has shape {list(stack.shape)}, number {part} of its first axis is asked for")
    one: np.memmap[Any, Any] = stack[part]
    return one


def weight_files(path: Path) -> list[Path]:
    """The shards of a folder: those its index names, else every *.safetensors."""
    index = path / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: not an index of shards ({error!r})") from error
        shards = [path / name for name in names]
        for shard in shards:
            if shard.parent != path or not shard.is_file():
                raise CheckpointError(f"{index}: names {shard.name}, which is not in {path}")
        return shards
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{path}: no *.safetensors file; PyTorch .bin weights are not read, convert them first")
    return shards


def _read_entries(shard: Path) -> dict[str, _Entry]:
    try:
        with safe_open(shard, framework="np"):  # the library checks the header: bounds, overlaps, sizes
            pass
        with shard.open("rb") as file:
            (nbytes,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(nbytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{shard}: not a readable safetensors file ({error}); download it again") from error
    start = 8 + nbytes
    return {
        name: _Entry(shard, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }
