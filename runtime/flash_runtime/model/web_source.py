"""`https://` and `http://` sources: one GGUF or packed file on a web server, kept in the cache by its digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flash_runtime.model.cache import Cache, file_sha256
from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.transfer import Remote, Web, discard, download, shown
from flash_runtime.packed import MAGIC

_BEGINS: Final = (b"GGUF", MAGIC)


def check_address(url: str, *, sha256: str | None, token: str | None) -> None:
    """Raises RequestError for an address that cannot be fetched, or not safely."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise RequestError(
            f"source {parts.scheme}://…@{parts.netloc.rpartition('@')[2]}{parts.path}: must not hold a password; "
            "name a Secret with a token in model.credentialsSecretRef"
        )
    if not parts.hostname or parts.path in ("", "/"):
        raise RequestError(f"source {shown(url)}: names no file, as in https://example.org/models/model.gguf does")
    if parts.scheme == "http" and sha256 is None:
        raise RequestError(
            f"source {shown(url)}: http:// protects nothing on the way; write model.sha256, or use https://"
        )
    if parts.scheme == "http" and token is not None:
        raise RequestError(f"source {shown(url)}: a token is never sent over http://; use https://, or leave it out")


def fetch_web_file(
    url: str, *, sha256: str | None, token: str | None, cache: Cache, progress: ProgressReporter, web: Web
) -> tuple[Path, str]:
    """The file in the cache and its SHA-256; fetched if it is not there or, without a digest, has changed."""
    check_address(url, sha256=sha256, token=token)
    wanted = sha256.lower() if sha256 else None
    if wanted and (kept := _kept(cache, wanted)).exists():
        return kept, wanted
    name = f"web-{hashlib.sha256((wanted or url).encode()).hexdigest()[:32]}"
    with cache.exclusive(name, on_wait=lambda: progress.say("waiting for another pull's download")):
        if wanted and (kept := _kept(cache, wanted)).exists():
            return kept, wanted
        note = cache.path("sources", f"{name}.json")
        etag, known = _remembered(note, cache)
        partial = cache.path("partial", name)
        progress.say(f"downloading {shown(url)}")
        found_etag = download(
            Remote(url, token, begins=_BEGINS, pinned=wanted is not None, unless=None if wanted else etag),
            partial,
            web=web,
            on_bytes=lambda done, total: progress.update("download", done, total, "bytes"),
            say=progress.say,
        )
        if found_etag is None:
            assert known is not None
            return _kept(cache, known), known
        found = file_sha256(partial)
        if wanted not in (None, found):
            discard(partial)
            raise CheckpointError(
                f"source {shown(url)}: sha256 is {found}, {wanted} is expected; the weights are not the ones that "
                "were pinned"
            )
        partial.replace(_kept(cache, found))
        discard(partial)
        if found_etag and wanted is None:
            note.write_text(json.dumps({"etag": found_etag, "sha256": found}), encoding="utf-8")
    return _kept(cache, found), found


def _kept(cache: Cache, sha256: str) -> Path:
    return cache.path("sources", f"{sha256}.gguf")


def _remembered(note: Path, cache: Cache) -> tuple[str | None, str | None]:
    """ETag and SHA-256 of the copy in the cache."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no note, or not one of ours: fetch it again
        known = json.loads(note.read_bytes())
        if _kept(cache, str(known["sha256"])).exists():
            return str(known["etag"]), str(known["sha256"])
    return None, None
