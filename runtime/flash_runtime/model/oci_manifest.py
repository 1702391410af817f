"""Which blobs of an OCI manifest are a model's files, and how each is packed. Pure: a document in, values out.

Known are: artifacts whose layers are named (ORAS), ModelPack (`application/vnd.cncf.model.*`), Docker's model
artifacts (a GGUF layer), and images that carry the model below `/models` (KServe's modelcar).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final

from flash_runtime.model.cache import FOLDER_FILES
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.object_name import FILE_ENDINGS
from flash_runtime.model.oci_name import DIGEST

INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_IMAGES: Final = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_TITLE: Final = "org.opencontainers.image.title"
_FILEPATH: Final = "org.cncf.model.filepath"
_UNPACK: Final = "io.deis.oras.content.unpack"
_MODELPACK: Final = "application/vnd.cncf.model."
_MODELPACK_ASIDE: Final = ("code.", "dataset.")
_DOCKER_GGUF: Final = "application/vnd.docker.ai.gguf.v3"
MODELS_FOLDER: Final = "models/"
"""Where an image carries its model."""
_MAX_LAYERS: Final = 2_000
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Packing(StrEnum):
    """What a blob is."""

    FILE = "file"
    TAR = "tar"
    GZIP = "tar+gzip"


@dataclass(frozen=True)
class Blob:
    """One blob that holds files of the model."""

    name: str
    """Of the file; of an archive what it is called, if anything."""
    digest: str
    nbytes: int
    packing: Packing


@dataclass(frozen=True)
class Artifact:
    """The blobs that the model's files are in."""

    blobs: tuple[Blob, ...]
    below: str = ""
    """Only what archives have below this folder is the model's."""


def wanted_name(path: str) -> bool:
    """Whether a file of this name may belong to a checkpoint."""
    name = path.rpartition("/")[2]
    return name.endswith(FILE_ENDINGS) or any(fnmatchcase(name, pattern) for pattern in FOLDER_FILES)


def safe_path(where: str, path: str) -> str:
    """The path without a leading `./`; raises CheckpointError where it leads out of its folder."""
    plain = path.removeprefix("./")
    parts = plain.split("/")
    if not plain or {"", ".", ".."} & set(parts) or "\\" in plain or not plain.isprintable():
        raise CheckpointError(f"source {where}: holds a file named {path!r}, which leads out of its folder")
    return plain


def manifest_for_this_machine(where: str, index: Mapping[str, Any]) -> str:
    """The digest of the one manifest of an index that fits. Raises CheckpointError."""
    entries = [entry for entry in _list(index, "manifests") if entry.get("mediaType") in MANIFESTS]
    machine = _MACHINES.get(platform.machine(), platform.machine())
    fitting = [entry for entry in entries if (entry.get("platform") or {}).get("architecture") == machine]
    found = fitting or [entry for entry in entries if not entry.get("platform")]
    if len(found) != 1:
        raise CheckpointError(
            f"source {where}: is an index with {len(found)} manifests for {machine}; name one by its @sha256: digest"
        )
    return _digest(where, found[0])


def artifact(where: str, manifest: Mapping[str, Any]) -> Artifact:
    """Raises CheckpointError for a manifest without a model, or of a kind that is not known."""
    layers = _list(manifest, "layers")
    kind = str((manifest.get("config") or {}).get("mediaType", ""))
    if len(layers) > _MAX_LAYERS:
        raise CheckpointError(f"source {where}: has {len(layers)} layers; at most {_MAX_LAYERS} are taken")
    found = [blob for layer in layers if (blob := _named(where, layer)) is not None]
    if found:
        return Artifact(tuple(found))
    if kind in _IMAGES:
        archives = tuple(_archive(where, layer, "") for layer in layers)
        if archives:
            return Artifact(archives, MODELS_FOLDER)
    types = sorted({str(layer.get("mediaType")) for layer in layers})
    raise CheckpointError(
        f"source {where}: holds no model that is known (config {kind or 'none'}, layers "
        f"{', '.join(types[:6]) or 'none'}); push its files with `oras push`, as a ModelPack, or as an image with the "
        "files below /models"
    )


def _named(where: str, layer: Mapping[str, Any]) -> Blob | None:
    """A layer that says which file or archive it is; None for one that is no file of a checkpoint."""
    kind, notes = str(layer.get("mediaType", "")), layer.get("annotations") or {}
    if kind.startswith(_MODELPACK):
        rest = kind.removeprefix(_MODELPACK)
        path = str(notes.get(_FILEPATH) or notes.get(_TITLE) or "")
        if rest.startswith(_MODELPACK_ASIDE) or (path and "." in path.rpartition("/")[2] and not wanted_name(path)):
            return None
        return _archive(where, layer, path) if ".tar" in rest else _file(where, layer, path)
    if kind == _DOCKER_GGUF:
        return _file(where, layer, "model.gguf")
    path = str(notes.get(_TITLE) or notes.get(_FILEPATH) or "")
    if not path:
        return None
    if notes.get(_UNPACK) == "true":
        return _archive(where, layer, path, packing=Packing.GZIP)
    return _file(where, layer, path) if wanted_name(path) else None


def _file(where: str, layer: Mapping[str, Any], path: str) -> Blob:
    return Blob(safe_path(where, path), _digest(where, layer), _size(where, layer), Packing.FILE)


def _archive(where: str, layer: Mapping[str, Any], name: str, *, packing: Packing | None = None) -> Blob:
    kind = str(layer.get("mediaType", ""))
    if packing is None:
        ends = {".tar": Packing.TAR, "tar+gzip": Packing.GZIP, "tar.gzip": Packing.GZIP}
        packing = next((packed for end, packed in ends.items() if kind.endswith(end)), None)
    if packing is None:
        raise CheckpointError(
            f"source {where}: a layer is of the type {kind or 'none'}, which is not read; push it as tar or tar+gzip"
        )
    return Blob(name, _digest(where, layer), _size(where, layer), packing)


def _digest(where: str, entry: Mapping[str, Any]) -> str:
    digest = str(entry.get("digest", ""))
    if not DIGEST.fullmatch(digest):
        raise CheckpointError(
            f"source {where}: its manifest names the digest {digest[:80]!r}; sha256 and sha512 are known"
        )
    return digest


def _size(where: str, entry: Mapping[str, Any]) -> int:
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise CheckpointError(f"source {where}: its manifest names the size {size!r} of a layer")
    return size


def _list(document: Mapping[str, Any], field: str) -> Sequence[Mapping[str, Any]]:
    entries = document.get(field)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
