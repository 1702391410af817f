"""A source that is a packed model already: checked against what is wanted, and put into a folder. Reads no tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from flash_runtime.model.cache import place
from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.variants import PACK_VERSION, formats, variant_named
from flash_runtime.packed import PackedError, PackedFile, PackedWriter

_TOKENIZER: Final = "tokenizer.json"


def open_ready(path: Path, *, variant: str, head: str | None) -> PackedFile:
    """The packed file of this release and kind; RequestError for one of another kind, CheckpointError if damaged."""
    try:
        packed = PackedFile.open(path)
    except PackedError as error:
        raise CheckpointError(str(error)) from error
    found: dict[str, Any] = {**packed.header, "head": (packed.header.get("model") or {}).get("head_format")}
    wanted = {"pack_version": PACK_VERSION, "variant": variant_named(variant), "contents": "model"}
    if head is not None:
        wanted["head"] = formats(variant, head=head).head
    for field, value in wanted.items():
        if found.get(field) != value:
            raise RequestError(
                f"source {path}: its {field} is {found.get(field)}, {value} is asked for; ask for {found.get(field)}, "
                "or pack the checkpoint again"
            )
    return packed


def verified(packed: PackedFile) -> Path:
    """The file's path, after reading it whole; raises CheckpointError for a blob that was changed."""
    try:
        packed.verify()
    except PackedError as error:
        raise CheckpointError(str(error)) from error
    return packed.path


def place_ready(packed: PackedFile, target: Path, *, text_only: bool) -> dict[str, Any]:
    """Put the file, or its text alone, at `target` at once; returns the header that stands there."""
    if not text_only:
        place(verified(packed), target)
        return dict(packed.header)
    header = {**packed.header, "contents": "text"}
    try:
        text = packed.text_bytes(_TOKENIZER)
    except PackedError as error:
        raise CheckpointError(str(error)) from error
    with PackedWriter(target) as writer:
        writer.set_header(header)
        writer.add_bytes(_TOKENIZER, text)
    return header
