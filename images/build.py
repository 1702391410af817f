"""Builds the container images with what this machine has: Docker, podman or buildah. `make images` runs it.

    python images/build.py                    # all three, and a table of their sizes
    python images/build.py engine --archive   # one, and as a file that nodes without a registry import

With Docker or podman the bases come from their registries. Where buildah is all there is, a Debian base is made with
mmdebstrap, so that no registry is needed. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for who imports this file by its path

from debian_base import provide_base, recipe
from image_builders import BUILDERS, Builder, BuildFailed, Missing, cache, find_builder
from inputs import ROLES, image_name, inputs_digest, project_version, revision

CPU_BASES: Final = {
    "registry": "docker.io/library/python:3.11.14-slim-bookworm",
    "debian": "localhost/flashplane/debian:bookworm",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 = a build failed, 2 = nothing here can build."""
    options = _parser().parse_args(arguments)
    try:
        builder = find_builder(options.builder)
        bases = options.bases or ("debian" if builder.name == "buildah" else "registry")
        return _build(builder, bases, options)
    except Missing as missing:
        print(f"images: {missing}", file=sys.stderr)
        return 2
    except BuildFailed as failed:
        print(f"images: {failed}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"of {', '.join(ROLES)} (default: all)")
    parser.add_argument("--builder", choices=sorted(BUILDERS), help="default: the first that works here")
    parser.add_argument(
        "--bases", choices=sorted(CPU_BASES), help="where bases come from (default: debian with buildah, else registry)"
    )
    parser.add_argument("--engine-base", metavar="IMAGE", help="of the engine, instead of the official tritonserver")
    parser.add_argument("--cpu", action="store_true", help="the engine on the small base of the others")
    parser.add_argument("--registry", default="ghcr.io", help="that names begin with (default: %(default)s)")
    parser.add_argument("--archive", action="store_true", help="write docker archives into the cache, and say where")
    return parser


def _build(builder: Builder, bases: str, options: argparse.Namespace) -> int:
    roles = options.roles or list(ROLES)
    for unknown in set(roles) - set(ROLES):
        raise Missing(f"no role {unknown}", f"name some of {', '.join(ROLES)}")
    print(f"==> {builder.version}; bases: {bases}", flush=True)
    base = CPU_BASES[bases]
    keep = options.archive or builder.name == "buildah"
    rows = []
    for role in roles:
        chosen = _base(role, base, bases, options)
        image = image_name(role, registry=options.registry, cpu="tritonserver" not in chosen)
        archive = cache() / "archives" / f"{role}-{inputs_digest(role, image, builder.name, chosen, recipe())}.tar"
        started = time.monotonic()
        if not (keep and archive.exists()):
            if chosen == CPU_BASES["debian"]:
                provide_base(builder, chosen)
            print(f"==> {image}", flush=True)
            builder.build(role, image, base=chosen, version=project_version(), revision=revision())
            if keep:
                _archive(builder, image, archive)
        size = archive.stat().st_size if keep else builder.size_bytes(image)
        rows.append(Row(image, size, time.monotonic() - started, archive if keep else None))
    print(table(rows))
    return 0


def _archive(builder: Builder, image: str, archive: Path) -> None:
    """Write it whole or not at all, and drop what it replaces."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    builder.save(image, partial)
    role = archive.name.rpartition("-")[0]
    for old in archive.parent.glob(f"{role}-*.tar"):
        old.unlink()
    partial.rename(archive)


@dataclass(frozen=True)
class Row:
    """One image that was built."""

    image: str
    size_bytes: int
    """Unpacked."""
    seconds: float
    archive: Path | None


def table(rows: Sequence[Row]) -> str:
    """Names, sizes and times in columns, and where the archives are."""
    width = max(len(row.image) for row in rows)
    lines = [f"{'image':{width}}  unpacked      time"]
    lines += [f"{row.image:{width}}  {row.size_bytes / 1e6:5.0f} MB  {row.seconds:6.1f} s" for row in rows]
    return "\n".join([*lines, *(f"archive {row.archive}" for row in rows if row.archive is not None)])


def _base(role: str, base: str, bases: str, options: argparse.Namespace) -> str:
    if role != "engine" or options.cpu or (bases == "debian" and options.engine_base is None):
        return base
    return options.engine_base or _default_base(role)


def _default_base(role: str) -> str:
    found = re.search(r"^ARG BASE=(\S+)$", (Path(__file__).parent / f"{role}.Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
