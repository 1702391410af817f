"""Artifacts for a registry: layers of several kinds, and how they are pushed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
IMAGE = "application/vnd.oci.image.config.v1+json"
MODELPACK = "application/vnd.cncf.model."
TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"


@dataclass(frozen=True)
class Layer:
    """A blob and what the manifest says of it."""

    content: bytes
    media_type: str
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, Any]:
        entry = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}
        return {**entry, "annotations": dict(self.annotations)} if self.annotations else entry


def titled(name: str, content: bytes) -> Layer:
    """As `oras push` makes it."""
    return Layer(content, "application/octet-stream", {TITLE: name})


def archive(files: Mapping[str, bytes], *, packed: bool = True, links: Mapping[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return gzip.compress(buffer.getvalue(), 1) if packed else buffer.getvalue()


def push(
    url: str,
    repository: str,
    tag: str,
    layers: Iterable[Layer],
    *,
    config_type: str = EMPTY,
    login: tuple[str, str] | None = None,
    authorization: str | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> str:
    """Push an artifact, or the manifest that is given; returns the manifest's digest."""
    if login is not None:
        authorization = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    headers = {"Authorization": authorization} if authorization else {}
    base = f"{url}/v2/{repository}"
    config = Layer(b"{}", config_type, {})
    layers = list(layers)
    for layer in (config, *layers):
        with urllib.request.urlopen(
            urllib.request.Request(f"{base}/blobs/uploads/", b"", headers, method="POST")
        ) as started:
            location = started.headers["Location"]
        joint = "&" if "?" in location else "?"
        upload = {**headers, "Content-Type": "application/octet-stream"}
        address = f"{location}{joint}digest={layer.digest}"
        urllib.request.urlopen(urllib.request.Request(address, layer.content, upload, method="PUT")).close()
    document = manifest or {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
    }
    content = json.dumps(document).encode()
    kind = {**headers, "Content-Type": str(document["mediaType"])}
    urllib.request.urlopen(urllib.request.Request(f"{base}/manifests/{tag}", content, kind, method="PUT")).close()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
