"""`s3://` and `gs://` sources: a folder in the hub's layout, or one GGUF or packed file, kept in the cache.

A folder is kept under what the bucket said of its files (size, ETag, version), a file by its SHA-256. A folder gets
its place in the cache when all of it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from flash_runtime.model.cache import Cache, file_sha256, place
from flash_runtime.model.errors import CheckpointError, DownloadError, RequestError
from flash_runtime.model.hub_source import checkpoint_files
from flash_runtime.model.object_access import Access, gs_access, s3_access
from flash_runtime.model.object_name import ObjectName, check_endpoint, parse_object_name
from flash_runtime.model.object_store import Store, StoredObject, open_store
from flash_runtime.model.object_transfer import Ranges, fetch_object, file_md5, md5_of_etag
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.transfer import Broken, TokenRefused, Web, check_room, discard, keep_trying
from flash_runtime.packed import MAGIC

MAX_OBJECTS: Final = 10_000
"""A folder with more is no model's: listing a whole archive of data would take minutes and find nothing."""
_BEGINS: Final = (b"GGUF", MAGIC)
_KEYLESS: Final = ("aws:kms", "aws:kms:dsse")
_DIRECTORY_BUCKET: Final = "--x-s3"
"""Ends the name of a bucket whose ETags are no digests."""

_Answer = TypeVar("_Answer")
OpenStore = Callable[[ObjectName, Access], Store]


@dataclass(frozen=True)
class ObjectFile:
    """One object of a folder."""

    name: str
    """Relative to the folder."""
    found: StoredObject


def fetch_objects(
    uri: str,
    *,
    revision: str | None,
    sha256: str | None,
    environment: Mapping[str, str],
    cache: Cache,
    progress: ProgressReporter,
    web: Web,
    ranges: Ranges | None = None,
    open_store: OpenStore = open_store,
) -> tuple[Path, str | None]:
    """The folder or file in the cache, and the file's SHA-256. Raises ModelError."""
    name = parse_object_name(uri)
    if revision is not None and not name.is_file:
        raise RequestError(f"revision {revision}: is a version of one object; {name.shown} is a folder; leave it out")
    wanted = sha256.lower() if sha256 else None
    if wanted and name.is_file and (kept := _kept(cache, wanted)).exists():
        return kept, wanted
    access = s3_access(environment) if name.scheme == "s3" else gs_access(environment)
    if endpoint := name.endpoint or access.endpoint:
        check_endpoint(endpoint, name=name, sha256=wanted, sends_token=name.scheme == "gs" and not access.is_anonymous)
    pull = _Pull(name, open_store(name, access), cache, progress, web, ranges or Ranges())
    try:
        return _fetch(pull, revision, wanted)
    except TokenRefused as refused:
        if name.scheme != "gs" or not access.is_anonymous:
            raise
        # The bucket is not public, and there is no key: what is left is the pod's own identity, if it has one.
        own = replace(pull, store=open_store(name, replace(access, ambient=True)))
        if not _answers(own, revision):
            raise refused from None
    return _fetch(own, revision, wanted)


@dataclass(frozen=True)
class _Pull:
    name: ObjectName
    store: Store
    cache: Cache
    progress: ProgressReporter
    web: Web
    ranges: Ranges

    def look(self, revision: str | None) -> StoredObject:
        return self._patiently(lambda: self.store.look(self.name.key, version=revision))

    def list(self) -> list[StoredObject]:
        return self._patiently(lambda: self.store.list(self.name.key, limit=MAX_OBJECTS + 1))

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        nothing = self.cache.path("partial", "none")  # what never grows
        return keep_trying(ask, nothing, what=self.name.shown, sleep=self.web.sleep, say=self.progress.say)


def _answers(pull: _Pull, revision: str | None) -> bool:
    """Whether the bucket is open to this store. Asked once: where there is no identity, nobody answers for it."""
    try:
        if pull.name.is_file:
            pull.store.look(pull.name.key, version=revision)
        else:
            pull.store.list(pull.name.key, limit=1)
    except (Broken, DownloadError):
        return False
    return True


def _fetch(pull: _Pull, revision: str | None, wanted: str | None) -> tuple[Path, str | None]:
    if pull.name.is_file:
        return _fetch_file(pull, pull.look(revision), wanted)
    return _fetch_folder(pull, pull.list()), None


def _fetch_file(pull: _Pull, found: StoredObject, wanted: str | None) -> tuple[Path, str]:
    name, cache = pull.name, pull.cache
    identity = _identity(name, [found])
    note = cache.path("objects", f"{identity}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no note, or not one of ours: fetch it again
        known = str(json.loads(note.read_bytes())["sha256"])
        if _kept(cache, known).exists() and wanted in (None, known):
            return _kept(cache, known), known
    with cache.exclusive(f"objects-{identity}", on_wait=lambda: _say_waiting(pull)):
        arrived = _download(pull, [ObjectFile(name.key.rpartition("/")[2], found)], identity)[0]
        with arrived.open("rb") as file:
            begins = file.read(max(map(len, _BEGINS)))
        if not begins.startswith(_BEGINS):
            discard(arrived)
            raise CheckpointError(f"source {name.shown}: begins with {begins!r}: neither a GGUF nor a packed file")
        sha256 = file_sha256(arrived)
        if wanted not in (None, sha256):
            discard(arrived)
            raise CheckpointError(
                f"source {name.shown}: sha256 is {sha256}, {wanted} is expected; the weights are not the ones that "
                "were pinned"
            )
        arrived.replace(_kept(cache, sha256))
        discard(arrived)
        note.write_text(json.dumps({"sha256": sha256}), encoding="utf-8")
    return _kept(cache, sha256), sha256


def _fetch_folder(pull: _Pull, listed: Sequence[StoredObject]) -> Path:
    name, cache = pull.name, pull.cache
    files = checkpoint_files(name.shown, name.shown, _files(name, listed))
    identity = _identity(name, [file.found for file in files])
    # Ends in the folder's own name, which is the model's where its card gives none.
    folder = cache.path("objects", identity, name.key.rpartition("/")[2] or name.bucket)
    if folder.is_dir():
        return folder
    with cache.exclusive(f"objects-{identity}", on_wait=lambda: _say_waiting(pull)) as work:
        if folder.is_dir():
            return folder
        arrived = _download(pull, files, identity)
        whole = work / "folder"
        whole.mkdir()
        for file, path in zip(files, arrived, strict=True):
            place(path, whole / file.name)
        whole.replace(folder)
        for path in arrived:
            discard(path)
    return folder


def _files(name: ObjectName, listed: Sequence[StoredObject]) -> list[ObjectFile]:
    """Names relative to the folder; raises CheckpointError for what no model folder has."""
    if not listed:
        raise CheckpointError(f"source {name.shown}: there is nothing below it; check model.source")
    if len(listed) > MAX_OBJECTS:
        raise CheckpointError(
            f"source {name.shown}: more than {MAX_OBJECTS} objects are below it; name the model's own folder"
        )
    prefix = f"{name.key}/" if name.key else ""
    files = []
    for found in listed:
        relative = found.key.removeprefix(prefix)
        if found.key == name.key or found.key.endswith("/"):
            continue  # some tools make an empty object that stands for the folder
        if not found.key.startswith(prefix) or {"", ".", ".."} & set(relative.split("/")) or "\\" in relative:
            raise CheckpointError(
                f"source {name.shown}: the key {found.key!r} leads out of the folder; remove the object"
            )
        files.append(ObjectFile(relative, found))
    return files


def _download(pull: _Pull, files: Sequence[ObjectFile], identity: str) -> list[Path]:
    """Every file whole and compared, under the names of partial ones."""
    total, done = sum(file.found.nbytes for file in files), 0
    paths = [pull.cache.path("partial", f"objects-{identity}-{file.name}") for file in files]
    pull.progress.say(f"downloading {pull.name.shown} ({len(files)} files, {total / 1e6:.0f} MB)")
    arrived = sum(path.stat().st_size for path in paths if path.exists())
    check_room(pull.cache.root, total - arrived, web=pull.web, what=pull.name.shown)
    for file, path in zip(files, paths, strict=True):
        fetch_object(
            pull.store,
            file.found,
            path,
            what=f"{pull.name.scheme}://{pull.name.bucket}/{file.found.key}",
            ranges=pull.ranges,
            sleep=pull.web.sleep,
            on_bytes=partial(_tell, pull.progress, done, total),
            say=pull.progress.say,
        )
        _compare(pull, file.found, path)
        done += file.found.nbytes
    return paths


def _compare(pull: _Pull, found: StoredObject, path: Path) -> None:
    """With the MD5 that S3 gives for an object sent in one piece; a key of one's own makes its ETag another number."""
    wanted = md5_of_etag(found.etag)
    if pull.name.scheme != "s3" or wanted is None or pull.name.bucket.endswith(_DIRECTORY_BUCKET):
        return
    if (md5 := file_md5(path)) == wanted or _etag_is_no_digest(pull, found.key):
        return
    discard(path)
    raise CheckpointError(
        f"source {pull.name.shown}: {found.key}: its MD5 is {md5}, the store names {wanted}; pull again"
    )


def _etag_is_no_digest(pull: _Pull, key: str) -> bool:
    address = pull.store.signed(key)
    if address is None:
        return False
    try:
        with pull.web.opener.open(urllib.request.Request(address, method="HEAD"), timeout=30) as answer:
            found = answer.headers
    except OSError:
        return False
    return bool(
        found.get("x-amz-server-side-encryption") in _KEYLESS
        or found.get("x-amz-server-side-encryption-customer-algorithm")
    )


def _tell(progress: ProgressReporter, before: int, total: int, count: int, _: int) -> None:
    """`count` bytes of this file, after `before` of the files before it."""
    progress.update("download", before + count, total, "bytes")


def _say_waiting(pull: _Pull) -> None:
    pull.progress.say("waiting for another pull's download")


def _identity(name: ObjectName, found: Sequence[StoredObject]) -> str:
    """Names what the bucket said of the objects: another ETag, size or version is another identity."""
    facts = [name.scheme, name.endpoint, name.bucket, name.key]
    objects = sorted([one.key, one.nbytes, one.etag, one.version] for one in found)
    return hashlib.sha256(json.dumps([facts, objects]).encode()).hexdigest()[:32]


def _kept(cache: Cache, sha256: str) -> Path:
    return cache.path("sources", f"{sha256}.gguf")
