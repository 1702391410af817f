"""`hf://ORG/NAME` and `hf://ORG/NAME/FILE.gguf` sources: a repository's checkpoint at one commit, kept in the cache.

Every file is compared with the hub's digest before it gets its name, so a name in the cache is a whole file. A commit
never changes: once fetched, a source with a commit as its revision needs no network.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from flash_runtime.model.cache import FOLDER_FILES, Cache, file_sha256
from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.hub import Hub, HubFile, Listing
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.transfer import Remote, Web, check_room, discard, download

_INDEX: Final = "model.safetensors.index.json"
_ONE: Final = "model.safetensors"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHUNK_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class HubName:
    """What an hf:// URI names."""

    repository: str
    """`ORG/NAME`."""
    file: str | None
    """One GGUF or packed file of it; None = its safetensors, configuration and tokenizer."""


def parse_name(uri: str) -> HubName:
    """Raises RequestError for anything but `hf://ORG/NAME` and `hf://ORG/NAME/FILE`."""
    parts = uri.partition("://")[2].rstrip("/").split("/")
    if len(parts) < 2 or not all(_WORD.fullmatch(part) for part in parts):
        raise RequestError(
            f"source {uri}: must be hf://ORG/NAME or hf://ORG/NAME/FILE.gguf; a branch, tag or commit goes into "
            "model.revision (--revision)"
        )
    file = "/".join(parts[2:]) or None
    if file is not None and not file.endswith((".gguf", ".flash")):
        raise RequestError(f"source {uri}: {file} must be a .gguf or .flash file; without it all is taken")
    return HubName("/".join(parts[:2]), file)


class Named(Protocol):
    """A file of a repository, a bucket's folder or an artifact, by its name relative to it."""

    @property
    def name(self) -> str: ...


_File = TypeVar("_File", bound=Named)


def chosen(uri: str, name: HubName, files: Sequence[HubFile]) -> list[HubFile]:
    """The files that the checkpoint consists of; raises CheckpointError where there is none that can be read."""
    if name.file is None:
        return checkpoint_files(uri, name.repository, files)
    found = [file for file in files if file.name == name.file]
    if not found:
        ggufs = _ggufs(files)
        has = f"; it has {', '.join(ggufs[:8])}" if ggufs else ", and no .gguf at all"
        raise CheckpointError(f"source {uri}: {name.repository} has no {name.file}{has}")
    return found


def checkpoint_files(uri: str, where: str, files: Sequence[_File]) -> list[_File]:
    """The safetensors, configuration and tokenizer of a checkpoint in the hub's layout, and nothing else.

    Raises CheckpointError where there is none that can be read.
    """
    ggufs = _ggufs(files)
    wanted = [file for file in files if any(fnmatchcase(file.name, p) for p in FOLDER_FILES) and "/" not in file.name]
    weights = [file for file in wanted if file.name.endswith(".safetensors")]
    if not weights:
        instead = f"name one of its files, as in {uri}/{ggufs[0]}" if ggufs else "PyTorch .bin weights are not read"
        raise CheckpointError(f"source {uri}: {where} has no *.safetensors; {instead}")
    names = {file.name for file in wanted}
    if _INDEX in names:  # beside its shards, some repositories keep the same weights in other layouts
        weights = [file for file in weights if re.fullmatch(r"model-\d+-of-\d+\.safetensors", file.name)] or weights
    elif _ONE in names:
        weights = [file for file in weights if file.name == _ONE]
    kept = {file.name for file in weights}
    return [file for file in wanted if file.name in kept or not file.name.endswith(".safetensors")]


def _ggufs(files: Sequence[Named]) -> list[str]:
    return sorted(file.name for file in files if file.name.endswith(".gguf"))


def fetch_repository(
    uri: str,
    *,
    revision: str | None,
    token: str | None,
    cache: Cache,
    progress: ProgressReporter,
    web: Web,
    hub: Hub,
) -> tuple[Path, str]:
    """The folder or file in the cache, and the commit it is of."""
    name = parse_name(uri)
    if revision is not None and _COMMIT.fullmatch(revision) and (kept := _complete(cache, name, revision)):
        return kept, revision
    listing = hub(name.repository, revision=revision, token=token)
    if kept := _complete(cache, name, listing.commit):
        return kept, listing.commit
    lock = f"hub-{hashlib.sha256(f'{name.repository} {listing.commit}'.encode()).hexdigest()[:32]}"
    with cache.exclusive(lock, on_wait=lambda: progress.say("waiting for another pull's download")):
        if kept := _complete(cache, name, listing.commit):
            return kept, listing.commit
        files = chosen(uri, name, listing.files)
        _fetch(files, listing, name, cache, progress, web)
        if name.file is None:
            _note(cache, name, listing.commit).write_text(json.dumps([file.name for file in files]), encoding="utf-8")
    kept = _complete(cache, name, listing.commit)
    assert kept is not None
    return kept, listing.commit


def _fetch(
    files: Sequence[HubFile], listing: Listing, name: HubName, cache: Cache, progress: ProgressReporter, web: Web
) -> None:
    folder = _folder(cache, name, listing.commit)
    missing = [file for file in files if not (folder / file.name).exists()]
    total, done = sum(file.nbytes for file in missing), 0
    what = f"hf://{name.repository} at {listing.commit[:12]}"
    progress.say(f"downloading {what} ({len(missing)} files, {total / 1e6:.0f} MB)")
    partials = {file.name: cache.path("partial", _partial_name(name, listing.commit, file)) for file in missing}
    arrived = sum(path.stat().st_size for path in partials.values() if path.exists())
    check_room(cache.root, total - arrived, web=web, what=what)
    for file in missing:
        download(
            Remote(file.url, listing.token, nbytes=file.nbytes, pinned=True),
            partials[file.name],
            web=web,
            on_bytes=partial(_tell, progress, done, total),
            say=progress.say,
        )
        _compare(file, partials[file.name], what)
        target = cache.path(*folder.relative_to(cache.root).parts, *file.name.split("/"))
        partials[file.name].replace(target)
        discard(partials[file.name])
        done += file.nbytes


def _tell(progress: ProgressReporter, before: int, total: int, count: int, _: int) -> None:
    """`count` bytes of this file, after `before` of the files before it."""
    progress.update("download", before + count, total, "bytes")


def _compare(file: HubFile, path: Path, what: str) -> None:
    if file.sha256 is not None:
        found, wanted = file_sha256(path), file.sha256
    elif file.git_sha1 is not None:
        found, wanted = _git_sha1(path), file.git_sha1
    else:
        raise CheckpointError(f"{what}: the hub names no digest of {file.name}; check HF_ENDPOINT")
    if found != wanted:
        discard(path)
        raise CheckpointError(f"{what}: {file.name}: its digest is {found}, the hub names {wanted}; pull again")


def _git_sha1(path: Path) -> str:
    """git's name of a file's content, which is what a hub knows of small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _folder(cache: Cache, name: HubName, commit: str) -> Path:
    """Ends in the repository's own name, which is the model's where its card gives none."""
    organisation, _, repository = name.repository.partition("/")
    return cache.root / "hub" / organisation / commit / repository


def _note(cache: Cache, name: HubName, commit: str) -> Path:
    """Names the files of a folder that is complete."""
    organisation, _, repository = name.repository.partition("/")
    return cache.path("hub", organisation, commit, f"{repository}.json")


def _complete(cache: Cache, name: HubName, commit: str) -> Path | None:
    folder = _folder(cache, name, commit)
    if name.file is not None:
        return folder / name.file if (folder / name.file).is_file() else None
    note = _note(cache, name, commit)
    if not note.is_file():
        return None
    return folder if all((folder / file).is_file() for file in json.loads(note.read_bytes())) else None


def _partial_name(name: HubName, commit: str, file: HubFile) -> str:
    return f"hub-{hashlib.sha256(f'{name.repository} {commit} {file.name}'.encode()).hexdigest()[:32]}"
