"""A packed model of this release, opened: the file and its layer plan."""

from __future__ import annotations

from pathlib import Path

from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.variants import PACK_VERSION
from flash_runtime.packed import PackedError, PackedFile


def open_packed(path: Path) -> tuple[PackedFile, ModelPlan]:
    """Map the file and read its plan; raises PackedError for a damaged file or one of another release."""
    packed = PackedFile.open(path)
    again = "pull or pack the model again (`flash-pull`, `flash pack`)"
    if (version := packed.header.get("pack_version")) != PACK_VERSION:
        raise PackedError(f"{path}: pack_version is {version}, this release runs {PACK_VERSION}; {again}")
    try:
        return packed, ModelPlan.from_json(packed.header.get("model"))
    except ValueError as error:
        raise PackedError(f"{path}: {error}; {again}") from error
