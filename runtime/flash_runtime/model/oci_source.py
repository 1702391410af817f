"""`oci://` sources: the model that an artifact or image of a registry holds, kept in the cache by its digest.

A tag is looked up once a pull and the digest behind it is what counts from then on. Every blob is compared with its
own digest. The folder gets its place in the cache when all of it is there; once fetched, a digest needs no network.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache, place
from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.hub_source import checkpoint_files
from flash_runtime.model.object_access import read_credentials
from flash_runtime.model.object_name import FILE_ENDINGS
from flash_runtime.model.oci_manifest import Artifact, Blob, Packing, artifact, safe_path, wanted_name
from flash_runtime.model.oci_name import Login, OciName, login_for, parse_oci_name
from flash_runtime.model.oci_registry import Registry
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.transfer import OnBytes, TokenRefused, Web, check_room, discard, download

_CHUNK_BYTES: Final = 1 << 22
_MAX_MEMBERS: Final = 100_000
_WHITEOUT: Final = ".wh."
"""Begins the name of a file that says that another one, of an earlier layer, is gone."""
_OPAQUE: Final = ".wh..wh..opq"
"""Says that all that earlier layers have in its folder is gone."""
_RENEWALS: Final = 100


@dataclass(frozen=True)
class _Found:
    """A file of the artifact, in the folder for work in progress."""

    name: str
    path: Path


def fetch_artifact(
    uri: str,
    *,
    revision: str | None,
    environment: Mapping[str, str],
    cache: Cache,
    progress: ProgressReporter,
    web: Web,
) -> tuple[Path, str]:
    """The folder or file in the cache, and the manifest's digest. Raises ModelError."""
    name = parse_oci_name(uri)
    if revision is not None:
        raise RequestError(f"revision {revision}: an oci:// source names it itself, as in {name.shown}; leave it out")
    if name.digest and (kept := _kept(cache, name, name.digest)):
        return kept, name.digest
    registry = Registry(name, _login(name, environment), web)
    manifest = registry.manifest()
    if name.digest is None:
        progress.say(f"{name.shown} is {manifest.digest}")
    digest = name.digest or manifest.digest  # of the index, where that is what was pinned
    if kept := _kept(cache, name, digest):
        return kept, digest
    found = artifact(name.shown, manifest.document)
    lock = f"oci-{hashlib.sha256(f'{name.repository} {digest}'.encode()).hexdigest()[:32]}"
    with cache.exclusive(lock, on_wait=lambda: progress.say("waiting for another pull's download")) as work:
        if not _kept(cache, name, digest):
            blobs = _needed(name, found)
            paths = _download(name, registry, blobs, cache, progress, web)
            whole = _assembled(name, found, blobs, paths, work, web)
            folder = _folder(cache, name, digest)
            cache.path(*folder.relative_to(cache.root).parts)
            whole.replace(folder)
            for path in paths:
                discard(path)
    kept = _kept(cache, name, digest)
    assert kept is not None
    return kept, digest


def _login(name: OciName, environment: Mapping[str, str]) -> Login | None:
    """From the Secret's file, else from the file that `docker login` writes."""
    given = environment.get(ENV_TOKEN_FILE)
    own = f"{environment.get('DOCKER_CONFIG') or environment.get('HOME', '') + '/.docker'}/config.json"
    file = given or own
    if given is None and not Path(own).is_file():
        return None
    try:
        text = read_credentials(Path(file))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it must be a small text file"
        raise RequestError(f"{file}: cannot be read: {reason}") from None
    login = login_for(name, text, file=file)
    if login is None and given:
        raise RequestError(f"{file}: has no login for {name.registry}; add it, or leave model.credentialsSecretRef out")
    return login


def _needed(name: OciName, found: Artifact) -> Sequence[Blob]:
    """Where all is said by the manifest, only what the checkpoint consists of is fetched."""
    if any(blob.packing is not Packing.FILE for blob in found.blobs) or _model_file(name, _names(found.blobs)):
        return found.blobs
    by_name = dict(zip(_stripped(_names(found.blobs)), found.blobs, strict=True))
    kept = checkpoint_files(name.shown, name.shown, [_Found(relative, Path()) for relative in by_name])
    return [by_name[file.name] for file in kept]


def _names(blobs: Sequence[Blob]) -> list[str]:
    return [blob.name for blob in blobs]


def _download(
    name: OciName, registry: Registry, blobs: Sequence[Blob], cache: Cache, progress: ProgressReporter, web: Web
) -> list[Path]:
    """Every blob whole and compared, under the names of partial ones."""
    total, done = sum(blob.nbytes for blob in blobs), 0
    paths = [cache.path("partial", f"oci-{blob.digest.replace(':', '-')}") for blob in blobs]
    progress.say(f"downloading {name.shown} ({len(blobs)} layers, {total / 1e6:.0f} MB)")
    arrived = sum(path.stat().st_size for path in paths if path.exists())
    unpacked = sum(blob.nbytes for blob in blobs if blob.packing is not Packing.FILE)
    check_room(cache.root, max(0, total + unpacked - arrived), web=web, what=name.shown)
    for blob, path in zip(blobs, paths, strict=True):
        _receive(registry, blob, path, web, partial(_tell, progress, done, total), progress)
        algorithm, _, wanted = blob.digest.partition(":")
        if (digest := _digest(path, algorithm)) != wanted:
            discard(path)
            raise CheckpointError(
                f"source {name.shown}: a layer's digest is {algorithm}:{digest}, its manifest names {blob.digest}; "
                "pull again"
            )
        done += blob.nbytes
    return paths


def _receive(registry: Registry, blob: Blob, path: Path, web: Web, tell: OnBytes, progress: ProgressReporter) -> None:
    """A token lives for minutes, so a refused one is replaced by another and the blob taken up where it broke off."""
    for renewals_left in reversed(range(_RENEWALS)):
        remote = registry.blob(blob.digest, blob.nbytes)
        try:
            download(remote, path, web=web, on_bytes=tell, say=progress.say)
            return
        except TokenRefused as refused:
            if not renewals_left:
                raise
            registry.renew(refused)


def _assembled(
    name: OciName, found: Artifact, blobs: Sequence[Blob], paths: Sequence[Path], work: Path, web: Web
) -> Path:
    """A folder with the checkpoint's files and nothing else, or with the one model file."""
    loose, files = work / "loose", {}
    loose.mkdir()
    for number, (blob, path) in enumerate(zip(blobs, paths, strict=True)):
        if blob.packing is Packing.FILE:
            files[blob.name] = path
        else:
            _unpack(name, blob, path, loose / str(number), found.below, files, web)
    stripped = dict(zip(_stripped(list(files)), files.values(), strict=True))
    if (one := _model_file(name, list(stripped))) is not None:
        kept = [_Found(one.rpartition("/")[2], stripped[one])]
    else:
        kept = checkpoint_files(name.shown, name.shown, [_Found(*entry) for entry in stripped.items()])
    whole = work / "whole"
    whole.mkdir()
    for file in kept:
        place(file.path, whole / file.name)
        (whole / file.name).chmod(0o644)
    return whole


def _unpack(name: OciName, blob: Blob, path: Path, into: Path, below: str, files: dict[str, Path], web: Web) -> None:
    """Add the archive's files of a checkpoint to `files`; links, devices and everything else stay where they are."""
    into.mkdir()
    earlier = frozenset(files)
    try:
        with tarfile.open(path, "r|gz" if blob.packing is Packing.GZIP else "r|") as archive:
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise CheckpointError(f"source {name.shown}: a layer has more than {_MAX_MEMBERS} files")
                inside = member.name.removeprefix("./")
                if not inside.startswith(below):
                    continue
                folder, _, last = inside.rpartition("/")
                if last.startswith(_WHITEOUT):
                    gone = folder if last == _OPAQUE else f"{folder}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
                    for known in [known for known in earlier if known == gone or known.startswith(f"{gone}/")]:
                        files.pop(known, None)
                    continue
                if not wanted_name(inside) or member.isdir():
                    continue
                if not member.isfile():
                    raise CheckpointError(
                        f"source {name.shown}: {member.name} is a link or a device; push the file itself"
                    )
                content = archive.extractfile(member)
                assert content is not None
                check_room(into, member.size, web=web, what=name.shown)
                target = into / str(number)
                with content, target.open("wb") as file:
                    while chunk := content.read(_CHUNK_BYTES):
                        file.write(chunk)
                files[safe_path(name.shown, inside)] = target
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CheckpointError(f"source {name.shown}: a layer is no {blob.packing} archive ({error})") from error


def _model_file(name: OciName, names: Sequence[str]) -> str | None:
    """The one GGUF or packed file, where the artifact is not a folder of safetensors."""
    ones = [path for path in names if path.endswith(FILE_ENDINGS)]
    if not ones or any(path.endswith(".safetensors") for path in names):
        return None
    if len(ones) > 1:
        raise CheckpointError(
            f"source {name.shown}: holds {len(ones)} models ({', '.join(sorted(ones)[:8])}); push each under a tag of "
            "its own"
        )
    return ones[0]


def _stripped(names: Sequence[str]) -> list[str]:
    """The names below the folder that all of them are in."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    shared = 0
    while folders and all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    return ["/".join(PurePosixPath(name).parts[shared:]) for name in names]


def _tell(progress: ProgressReporter, before: int, total: int, count: int, _: int) -> None:
    """`count` bytes of this blob, after `before` of the blobs before it."""
    progress.update("download", before + count, total, "bytes")


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _folder(cache: Cache, name: OciName, digest: str) -> Path:
    """Ends in the repository's own name, which is the model's where its card gives none."""
    return cache.root / "oci" / digest.replace(":", "-") / name.repository.rpartition("/")[2]


def _kept(cache: Cache, name: OciName, digest: str) -> Path | None:
    folder = _folder(cache, name, digest)
    if not folder.is_dir():
        return None
    files = list(folder.iterdir())
    return files[0] if len(files) == 1 and files[0].name.endswith(FILE_ENDINGS) else folder
