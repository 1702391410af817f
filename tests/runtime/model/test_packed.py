"""The packed container: what goes in comes out, and a damaged, foreign or newer file is refused with its reason."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from flash_runtime.packed import FORMAT_VERSION, MAGIC, PackedError, PackedFile, PackedWriter

ARRAYS = {
    "bytes": np.arange(7, dtype=np.uint8),
    "matrix": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
    "stack": np.arange(2 * 3 * 5, dtype=np.int32).reshape(2, 3, 5),
    "halves": np.array([0.5, -2.0], dtype=np.float16),
}
PREAMBLE = struct.Struct("<8sIIQQ32s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.flash"
    with PackedWriter(path) as writer:
        writer.set_header({"about": {"name": "Tiny ✓"}})
        for name, array in ARRAYS.items():
            writer.add(name, array)
        writer.add_bytes("tokenizer.json", b'{"a": 1}')
    return path


def with_index(path: Path, change: Callable[[dict], object]) -> None:
    """Rewrite the index with a matching digest, as someone who knows the format could."""
    content = path.read_bytes()
    _, version, reserved, offset, nbytes, _ = PREAMBLE.unpack_from(content)
    index = json.loads(content[offset : offset + nbytes])
    index = change(index) or index
    tail = json.dumps(index).encode()
    digest = blake2b(tail, digest_size=32).digest()
    preamble = PREAMBLE.pack(MAGIC, version, reserved, offset, len(tail), digest)
    path.write_bytes(preamble + content[PREAMBLE.size : offset] + tail)


def test_what_was_written_is_read_back(path: Path) -> None:
    packed = PackedFile.open(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(packed.blob(name), array)
        assert packed.blob(name).dtype == array.dtype
    assert packed.header == {"about": {"name": "Tiny ✓"}}
    assert packed.text_bytes("tokenizer.json") == b'{"a": 1}'
    packed.verify()


def test_blobs_are_read_only_and_aligned(path: Path) -> None:
    packed = PackedFile.open(path)
    for name in ARRAYS:
        blob = packed.blob(name)
        assert not blob.flags.writeable
        assert blob.ctypes.data % 64 == 0


def test_a_blob_may_come_in_parts(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    with PackedWriter(tmp_path / "f") as writer:
        writer.stream("rows", "float32", (4, 3), (row for row in rows))
    np.testing.assert_array_equal(PackedFile.open(tmp_path / "f").blob("rows"), rows)


def test_an_empty_blob_is_read_back_empty(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "f") as writer:
        writer.add("nothing", np.zeros((0, 3), dtype=np.float32))
    assert PackedFile.open(tmp_path / "f").blob("nothing").shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "reason"),
    [
        ("a", (3,), "float32", "written twice"),
        ("b", (4,), "float32", "got 12 bytes"),
        ("c", (3,), "complex64", "dtype complex64"),
    ],
)
def test_a_writer_refuses_what_it_could_not_give_back(
    tmp_path: Path, name: str, shape: tuple[int], dtype: str, reason: str
) -> None:
    three = np.zeros(3, dtype=np.float32)
    with PackedWriter(tmp_path / "f") as writer:
        writer.add("a", three)
        with pytest.raises(PackedError, match=reason):
            writer.stream(name, dtype, shape, [three])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    before = path.read_bytes()

    def write_half() -> None:
        with PackedWriter(path) as writer:
            writer.add("a", np.zeros(3, dtype=np.float32))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PackedError, match=r"model\.flash: No such file.*flash-pull"):
        PackedFile.open(tmp_path / "model.flash")


def test_a_missing_blob_is_named(path: Path) -> None:
    with pytest.raises(PackedError, match="blob 'head' is missing"):
        PackedFile.open(path).blob("head")


@pytest.mark.parametrize("content", [b"", b"GGUF\x03\x00\x00\x00" + bytes(80), b"{}"])
def test_a_foreign_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PackedError, match="not a packed model"):
        PackedFile.open(path)


def test_a_newer_format_is_refused_with_both_versions(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, len(MAGIC), FORMAT_VERSION + 1)
    path.write_bytes(content)
    with pytest.raises(PackedError, match=f"version {FORMAT_VERSION + 1}, this release reads {FORMAT_VERSION}"):
        PackedFile.open(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), 17):
        path.write_bytes(content[:length])
        with pytest.raises(PackedError, match=r"cut off|not a packed model"):
            PackedFile.open(path)


def test_a_changed_byte_is_found_wherever_it_is(path: Path) -> None:
    """In preamble or index when opening; in a blob when verifying; padding carries nothing."""
    content = path.read_bytes()
    blobs = PackedFile.open(path).blobs.values()
    index_offset = PREAMBLE.unpack_from(content)[3]
    covered = [*range(8), *range(8, 12), *range(16, PREAMBLE.size)]
    covered += [blob.offset + i for blob in blobs for i in (0, blob.nbytes - 1)]
    covered += list(range(index_offset, len(content), 13))
    for position in covered:
        changed = bytearray(content)
        changed[position] ^= 0x40
        path.write_bytes(changed)
        with pytest.raises(PackedError):
            PackedFile.open(path).verify()


def test_changed_text_is_found_when_it_is_read(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'{"a": 1}', b'{"a": 2}'))
    with pytest.raises(PackedError, match=r"blob 'tokenizer\.json' has checksum"):
        PackedFile.open(path).text_bytes("tokenizer.json")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("offset", 2**40, "spans bytes"),
        ("offset", -64, "spans bytes"),
        ("offset", 65, "not a multiple of 64"),
        ("nbytes", 2**40, "spans bytes"),
        ("nbytes", 92, "shape"),
        ("shape", [4, 7], "shape"),
        ("shape", [-4, -6], "spans bytes"),
        ("shape", "wide", "malformed"),
        ("dtype", "float64", "shape"),
        ("dtype", "object", "unknown dtype"),
        ("dtype", None, "unknown dtype"),
    ],
)
def test_an_index_that_lies_is_refused(path: Path, field: str, value: object, reason: str) -> None:
    with_index(path, lambda index: index["blobs"]["matrix"].update({field: value}))
    with pytest.raises(PackedError, match=f"blob 'matrix'.*{reason}"):
        PackedFile.open(path)


@pytest.mark.parametrize("index", [[1], {"blobs": [1]}, {"blobs": {"a": 3}}, {"blobs": {}, "header": 7}])
def test_an_index_of_another_form_is_refused(path: Path, index: object) -> None:
    with_index(path, lambda _: index)
    with pytest.raises(PackedError):
        PackedFile.open(path)
