"""One file of named, aligned, checksummed blobs and a JSON header. Knows nothing about models.

Layout, little-endian:

    preamble   64 bytes: magic, format version, where the index lies, BLAKE2b-256 of the index
    blobs      each at a multiple of 64 bytes, so that kernels may read them in place
    index      JSON: {"blobs": {name: {dtype, shape, offset, nbytes, checksum}}, "header": …}

The index stands last, so a writer streams blobs without knowing them all; the preamble is written when all else is
on disk and the file appears under its name only then. Opening reads preamble and index; blobs are mapped, not read.
NumPy is imported where arrays are made: a program that wants the header alone starts without it.

Errors: `PackedError`, which names the file, the field, its value and what to do.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMAT_VERSION: Final = 1
MAGIC: Final = b"\x89FLASH\r\n"
ALIGNMENT: Final = 64
_PREAMBLE: Final = struct.Struct("<8sIIQQ32s")  # magic, version, reserved, index offset, index bytes, index digest
_MAX_INDEX_BYTES: Final = 256 * 1024**2
_DTYPES: Final = frozenset(
    {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"}
)
_REPACK: Final = "pull or pack the model again (`flash-pull`, `flash pack`)"


class PackedError(Exception):
    """A packed file that cannot be used: what is wrong with it and what to do."""


@dataclass(frozen=True)
class Blob:
    """One entry of the index."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: str
    """BLAKE2b-128 of the bytes, hexadecimal."""


def is_packed(path: Path) -> bool:
    """Whether this is a file that starts like a packed model."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _checksum() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


class PackedWriter:
    """Streams blobs into a new file; the file appears under its name, complete, when the `with` block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._blobs: dict[str, Blob] = {}
        self._header: Mapping[str, Any] = {}
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self._temporary.open("wb")
        self._file.write(bytes(_PREAMBLE.size))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def set_header(self, header: Mapping[str, Any]) -> None:
        """The caller's own facts: anything JSON can say."""
        self._header = header

    def add(self, name: str, array: Array) -> None:
        """Write one array as a blob."""
        self.stream(name, array.dtype.name, array.shape, [array])

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write text or other bytes as a blob of uint8."""
        self._write(name, "uint8", (len(content),), [content], expected=len(content))

    def stream(self, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Array]) -> None:
        """Write one blob from consecutive parts, so that only one part need be in memory."""
        import numpy as np

        expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        views = (np.ascontiguousarray(part, dtype=dtype).reshape(-1).view(np.uint8) for part in parts)
        self._write(name, dtype, shape, views, expected=expected)

    def _write(self, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Any], *, expected: int) -> None:
        if name in self._blobs:
            raise PackedError(f"{self._path}: blob {name!r} was written twice")
        if dtype not in _DTYPES:
            raise PackedError(f"{self._path}: blob {name!r} has dtype {dtype}; known are {', '.join(sorted(_DTYPES))}")
        offset = self._align()
        checksum = _checksum()
        written = 0
        for part in parts:
            checksum.update(part)
            written += self._file.write(part)
        if written != expected:
            raise PackedError(
                f"{self._path}: blob {name!r} got {written} bytes; shape {shape} of {dtype} is {expected}"
            )
        self._blobs[name] = Blob(dtype, tuple(shape), offset, written, checksum.hexdigest())

    def _align(self) -> int:
        position = self._file.tell()
        padding = -position % ALIGNMENT
        self._file.write(bytes(padding))
        return position + padding

    def _finish(self) -> None:
        offset = self._align()
        index = json.dumps(
            {"blobs": {name: vars(blob) for name, blob in self._blobs.items()}, "header": self._header},
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        self._file.write(index)
        self._file.seek(0)
        digest = hashlib.blake2b(index, digest_size=32).digest()
        self._file.write(_PREAMBLE.pack(MAGIC, FORMAT_VERSION, 0, offset, len(index), digest))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.replace(self._path)


class PackedFile:
    """A packed file, opened read-only. Arrays are views of the mapping and stay valid as long as any is held."""

    def __init__(self, path: Path, mapping: mmap.mmap, blobs: Mapping[str, Blob], header: Mapping[str, Any]) -> None:
        self.path = path
        self.header = header
        self.blobs = blobs
        self._mapping = mapping

    @classmethod
    def open(cls, path: Path) -> PackedFile:
        """Map the file after checking preamble, index digest and the bounds of every blob (not their checksums)."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                index = _read_index(path, file)
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise PackedError(f"{path}: {error.strerror or error}; {_REPACK}") from error
        return cls(path, mapping, _parse_blobs(path, index, len(mapping)), index["header"])

    def blob(self, name: str) -> Array:
        """The blob as a read-only array, not copied."""
        import numpy as np

        blob = self._find(name)
        flat = np.frombuffer(self._mapping, dtype=np.uint8, count=blob.nbytes, offset=blob.offset)
        array: Array = flat.view(blob.dtype).reshape(blob.shape)
        return array

    def text_bytes(self, name: str) -> bytes:
        """A copy of the blob's bytes, after comparing them with their checksum (text is small)."""
        blob = self._find(name)
        content = self._mapping[blob.offset : blob.offset + blob.nbytes]
        self._check(name, blob, content)
        return content

    def verify(self, *, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """Read every blob and compare it with its checksum, on as many threads as there are cores.

        `on_bytes` is told, from any of the threads, how many more bytes are sound.
        """
        with memoryview(self._mapping) as view, ThreadPoolExecutor(os.cpu_count()) as threads:

            def check(name: str) -> None:
                blob = self.blobs[name]
                with view[blob.offset : blob.offset + blob.nbytes] as content:
                    self._check(name, blob, content)
                on_bytes(blob.nbytes)

            for _ in threads.map(check, self.blobs):
                pass

    def _find(self, name: str) -> Blob:
        try:
            return self.blobs[name]
        except KeyError:
            raise PackedError(f"{self.path}: blob {name!r} is missing; {_REPACK}") from None

    def _check(self, name: str, blob: Blob, content: bytes | memoryview) -> None:
        checksum = _checksum()
        checksum.update(content)
        if checksum.hexdigest() != blob.checksum:
            raise PackedError(
                f"{self.path}: blob {name!r} has checksum {checksum.hexdigest()}, the index says {blob.checksum}: "
                f"the file was changed or damaged; {_REPACK}"
            )


def _read_index(path: Path, file: BinaryIO) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    preamble = file.read(_PREAMBLE.size)
    if preamble[: len(MAGIC)] != MAGIC:
        raise PackedError(f"{path}: not a packed model (it starts with {preamble[:8]!r}, not {MAGIC!r}); {_REPACK}")
    if len(preamble) < _PREAMBLE.size:
        raise PackedError(f"{path}: cut off inside its first {_PREAMBLE.size} bytes; {_REPACK}")
    _, version, _, offset, nbytes, digest = _PREAMBLE.unpack(preamble)
    if version != FORMAT_VERSION:
        raise PackedError(f"{path}: format version {version}, this release reads {FORMAT_VERSION}; {_REPACK}")
    if not _PREAMBLE.size <= offset <= size or nbytes > _MAX_INDEX_BYTES or offset + nbytes != size:
        raise PackedError(f"{path}: {size} bytes long, its index asks for {offset} + {nbytes}: cut off; {_REPACK}")
    file.seek(offset)
    content = file.read(nbytes)
    if hashlib.blake2b(content, digest_size=32).digest() != digest:
        raise PackedError(f"{path}: the index does not match its digest: the file was changed or damaged; {_REPACK}")
    try:
        index = json.loads(content)
    except ValueError as error:
        raise PackedError(f"{path}: the index is not JSON ({error}); {_REPACK}") from error
    if not isinstance(index, dict) or not all(isinstance(index.get(part), dict) for part in ("blobs", "header")):
        raise PackedError(f"{path}: the index lacks the objects `blobs` and `header`; {_REPACK}")
    return index


def _parse_blobs(path: Path, index: Mapping[str, Any], size: int) -> dict[str, Blob]:
    """Every blob, with bounds that hold: a file made by hand cannot make us read outside it."""
    blobs: dict[str, Blob] = {}
    for name, entry in index["blobs"].items():
        try:
            blob = Blob(
                dtype=str(entry["dtype"]),
                shape=tuple(int(n) for n in entry["shape"]),
                offset=int(entry["offset"]),
                nbytes=int(entry["nbytes"]),
                checksum=str(entry["checksum"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PackedError(
                f"{path}: the index entry of blob {name!r} is malformed ({error!r}); {_REPACK}"
            ) from error
        if blob.dtype not in _DTYPES:
            raise PackedError(f"{path}: blob {name!r} has unknown dtype {blob.dtype!r}; {_REPACK}")
        if min((blob.offset, blob.nbytes, *blob.shape)) < 0 or blob.offset + blob.nbytes > size:
            raise PackedError(
                f"{path}: blob {name!r} spans bytes {blob.offset} to {blob.offset + blob.nbytes} of {size}; {_REPACK}"
            )
        if blob.offset % ALIGNMENT:
            raise PackedError(
                f"{path}: blob {name!r} starts at {blob.offset}, not a multiple of {ALIGNMENT}; {_REPACK}"
            )
        if _element_bytes(blob.dtype) * _product(blob.shape) != blob.nbytes:
            raise PackedError(
                f"{path}: blob {name!r} has {blob.nbytes} bytes, shape {list(blob.shape)} of {blob.dtype} has "
                f"{_element_bytes(blob.dtype) * _product(blob.shape)}; {_REPACK}"
            )
        blobs[name] = blob
    return blobs


def _element_bytes(dtype: str) -> int:
    return int(dtype.lstrip("uintfloa")) // 8


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
