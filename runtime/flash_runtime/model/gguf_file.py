"""The GGUF container: metadata and where each tensor lies. Knows no model and dequantises nothing.

The `gguf` package's reader makes a NumPy array of every token (seconds for a vocabulary) and, on a file cut off inside
an array, loops without end; so the header is read here, with every length checked against the file, and the package
is used for what it is best at: the tensor types and their dequantisation.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flash_runtime.model.errors import CheckpointError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies. `shape` is outermost first, as NumPy says it."""

    shape: tuple[int, ...]
    type_id: int
    offset: int
    """From the start of the file."""


@dataclass(frozen=True)
class GgufFile:
    """An opened file; `data` is the whole of it, mapped."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    data: mmap.mmap


def open_gguf(path: Path) -> GgufFile:
    """Read metadata and the tensor directory; raises CheckpointError naming the file and the byte."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise CheckpointError(f"{path}: not a GGUF file (it does not start with {_MAGIC.decode()!r})")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    try:
        return _parse(path, data)
    except struct.error as error:
        raise CheckpointError(f"{path}: cut off inside its metadata ({len(data)} bytes); download it again") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: its metadata holds text that is not UTF-8; the file is damaged") from error


class _Cursor:
    """Reads little-endian values one after another; struct.error at the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = len(_MAGIC)

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        self._need(length)
        start, self.position = self.position, self.position + length
        return self._data[start : self.position].decode()

    def value(self, type_id: int) -> Any:
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self._array()
        if type_id not in _SCALARS:
            raise CheckpointError(f"unknown value type {type_id} at byte {self.position}")
        return self.scalar(_SCALARS[type_id])

    def _array(self) -> list[Any]:
        type_id, length = self.scalar("I"), self.scalar("Q")
        self._need(length)  # every element takes at least a byte
        if type_id in _SCALARS:
            form = f"<{length}{_SCALARS[type_id]}"
            values = struct.unpack_from(form, self._data, self.position)
            self.position += struct.calcsize(form)
            return list(values)
        return [self.value(type_id) for _ in range(length)]

    def _need(self, nbytes: int) -> None:
        if nbytes > len(self._data) - self.position:
            raise struct.error


def _parse(path: Path, data: mmap.mmap) -> GgufFile:
    cursor = _Cursor(data)
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        known = " and ".join(map(str, _VERSIONS))
        raise CheckpointError(f"{path}: GGUF version {version}, this release reads {known} (little-endian)")
    num_tensors, num_values = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = cursor.string()
        try:
            metadata[key] = cursor.value(cursor.scalar("I"))
        except (CheckpointError, RecursionError) as error:
            raise CheckpointError(f"{path}: metadata {key}: {error}; the file is damaged") from error
    directory = [_directory_entry(path, cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment is {alignment!r}, not a power of two")
    start = -(-cursor.position // alignment) * alignment
    tensors = {name: TensorEntry(shape, type_id, start + offset) for name, shape, type_id, offset in directory}
    return GgufFile(path, metadata, tensors, data)


def _directory_entry(path: Path, cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    num_dimensions = cursor.scalar("I")
    if not 1 <= num_dimensions <= 4:
        raise CheckpointError(f"{path}: tensor {name} has {num_dimensions} dimensions; the file is damaged")
    extents = [cursor.scalar("Q") for _ in range(num_dimensions)]
    return name, tuple(reversed(extents)), cursor.scalar("I"), cursor.scalar("Q")
