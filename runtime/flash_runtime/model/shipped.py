"""The differences that this package carries, and the folder that one makes together with its base. Reads no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.model.cache import file_sha256, place
from flash_runtime.model.errors import CheckpointError

BASE: Final = "base.gguf"
"""The base in a derived checkpoint's folder."""
DIFFERENCE: Final = "derived.safetensors"
"""The difference beside it."""


@dataclass(frozen=True)
class Shipped:
    """One difference."""

    path: Path
    sha256: str
    revision: str
    what: str


_FILES: Final = Path(__file__).parent / "family_files"

SHIPPED: Final[Mapping[str, Shipped]] = {
    "flash-tiny": Shipped(
        path=_FILES / "flash-tiny.safetensors",
        sha256="69ed6fe1bfc4cbc1ac513b0fc497c9358f80e9f37962001c577e262aea6176e1",
        revision="1",
        what="sparse student",
    ),
    "flash-tiny-draft": Shipped(
        path=_FILES / "flash-tiny-draft.safetensors",
        sha256="0f4cadb12f5b22c33ca746a777ea2305d72cfa728761a810c24fa275c3f027ff",
        revision="1",
        what="draft",
    ),
}
"""By the name of the builtin source; all are made from SmolLM2-135M-Instruct."""


def derived_folder(folder: Path, *, base: Path, difference: Path, sha256: str) -> Path:
    """A folder with the base and the difference, which is compared with its digest; raises CheckpointError."""
    if not difference.is_file():
        raise CheckpointError(f"{difference}: is missing from this installation; install Flashplane again")
    if (found := file_sha256(difference)) != sha256:
        raise CheckpointError(f"{difference}: sha256 is {found}, {sha256} is expected; install Flashplane again")
    folder.mkdir(exist_ok=True)
    place(base, folder / BASE)
    place(difference, folder / DIFFERENCE)
    return folder
