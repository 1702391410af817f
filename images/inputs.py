"""What an image is made from, as one digest, and what it is called. Reads files and git; builds nothing."""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
ROLES: Final = ("operator", "gateway", "engine")
_FOLDERS: Final = ("operator", "runtime")
_FILES: Final = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    ".dockerignore",
    "images/sbom.py",
    "images/requirements/build.txt",
)


def inputs_digest(role: str, *others: str) -> str:
    """Of every file that the image of the role is made from, and of what else the caller names."""
    digest = hashlib.sha256("\n".join(others).encode())
    for path in _inputs(role):
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _inputs(role: str) -> Iterator[Path]:
    for name in (*_FILES, f"images/{role}.Dockerfile", f"images/requirements/{role}.txt"):
        yield ROOT / name
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                yield path


def project_version() -> str:
    """As pyproject.toml says; the chart's appVersion is the same."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def image_name(role: str, *, registry: str, cpu: bool) -> str:
    """The name that the chart expects; the engine's says whose tritonserver is in it."""
    suffix = "" if role != "engine" else "-cpu" if cpu else "-tritonserver"
    return f"{registry}/flashplane/{role}:{project_version()}{suffix}"


def revision() -> str:
    """The commit that is checked out, with a word where files differ from it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
