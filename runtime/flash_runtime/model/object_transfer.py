"""One object of a bucket into a file: in ranges, a few at once, written in order, taken up again where it broke off.

The memory it takes is the ranges under way. Every range is asked for by the object's version and ETag, so that the
parts of two versions never meet. Knows no models and no cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.object_store import Store, StoredObject
from flash_runtime.model.transfer import MAX_FILE_BYTES, Broken, OnBytes, discard, keep_trying

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_CHUNK_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Ranges:
    """How much is asked for at once."""

    nbytes: int = 16 << 20
    at_once: int = 4


def fetch_object(
    store: Store,
    found: StoredObject,
    partial: Path,
    *,
    what: str,
    ranges: Ranges,
    sleep: Callable[[float], None],
    on_bytes: OnBytes,
    say: Callable[[str], None],
) -> None:
    """Fill `partial` with the whole object. Raises ModelError."""
    if found.nbytes > MAX_FILE_BYTES:
        raise CheckpointError(f"source {what}: {found.nbytes} bytes are more than the {MAX_FILE_BYTES} that are taken")
    note = partial.with_name(f"{partial.name}.json")
    version = json.dumps([found.key, found.nbytes, found.etag, found.version])
    if not note.is_file() or note.read_text(encoding="utf-8") != version:
        discard(partial)
        note.write_text(version, encoding="utf-8")
    keep_trying(lambda: _receive(store, found, partial, ranges, on_bytes), partial, what=what, sleep=sleep, say=say)


def _receive(store: Store, found: StoredObject, partial: Path, ranges: Ranges, on_bytes: OnBytes) -> None:
    with partial.open("ab") as file, ThreadPoolExecutor(ranges.at_once) as readers:
        done = asked = file.tell()
        on_bytes(done, found.nbytes)
        under_way: deque[Future[bytes]] = deque()
        try:
            while done < found.nbytes:
                while asked < found.nbytes and len(under_way) < ranges.at_once:
                    end = min(asked + ranges.nbytes, found.nbytes)
                    under_way.append(readers.submit(store.read, found, asked, end))
                    asked = end
                expected = min(ranges.nbytes, found.nbytes - done)
                chunk = under_way.popleft().result()
                if len(chunk) != expected:
                    raise Broken(f"{len(chunk)} bytes came where {expected} were asked for")
                file.write(chunk)
                done += len(chunk)
                on_bytes(done, found.nbytes)
        finally:
            for waiting in under_way:
                waiting.cancel()


def md5_of_etag(etag: str) -> str | None:
    """The MD5 that an ETag is, where it has the form of one: an object that was sent in one piece."""
    match = _MD5.fullmatch(etag)
    return match[1] if match else None


def file_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
