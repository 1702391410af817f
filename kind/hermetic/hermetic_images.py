"""Images without a registry and without a builder: one layer of given files, as an archive that containerd imports.

Pure apart from the files it reads and writes; equal inputs give equal bytes.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NOBODY = 65532
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, Path],
    *,
    entrypoint: Sequence[str],
    links: Mapping[str, str] | None = None,
    user: int = NOBODY,
) -> Path:
    """Writes the image `name` (with a tag) whose programs are `files`, by path in the image. `links` are symlinks."""
    layer = _layer(files, links or {})
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "User": f"{user}:{user}", "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        },
        sort_keys=True,
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for member, content in (("layer.tar", layer), ("config.json", config), ("manifest.json", manifest)):
            tar.addfile(_entry(member, len(content)), io.BytesIO(content))
    return archive


def _layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        parents = {str(parent) for path in (*files, *links) for parent in Path(path).parents if parent.name}
        for folder in sorted(parents | {"tmp"}):
            entry = _entry(folder, 0, mode=0o1777 if folder == "tmp" else 0o755)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for path, source in sorted(files.items()):
            content = source.read_bytes()
            tar.addfile(_entry(path, len(content), mode=0o755), io.BytesIO(content))
        for path, target in sorted(links.items()):
            entry = _entry(path, 0)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def _entry(path: str, size: int, *, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = size, mode
    return entry
