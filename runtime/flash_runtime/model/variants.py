"""The number formats this release packs, and the version of what it writes. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

from flash_runtime.model.errors import UnsupportedModel

PACK_VERSION: Final = 3
"""Raise it when the content of a packed model changes its meaning: cached files of another number are not used."""

PACKABLE_VARIANTS: Final = ("Lite",)


def refuse_variant(variant: str) -> None:
    """Raise UnsupportedModel for a number format that cannot be packed."""
    if variant not in PACKABLE_VARIANTS:
        raise UnsupportedModel(f"variant {variant} is not packed by this release; use {' or '.join(PACKABLE_VARIANTS)}")
