"""The variants of one model: the number formats of each, and the version of what is written. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from flash_runtime.model.errors import UnsupportedModel

PACK_VERSION: Final = 3
"""Raise it when the content of a packed model changes its meaning: cached files of another number are not used."""


@dataclass(frozen=True)
class Formats:
    """Number formats by what they hold; the values are those of `LinearFormat`."""

    weight: str
    """All linears of the layers."""
    head: str
    """Embedding and head. int4 costs more quality there than in the layers, and saves less."""
    rotated: bool
    """Whether outliers are spread over all features before rounding (see `rotation`)."""


VARIANTS: Final[Mapping[str, Formats]] = {
    "Cloud": Formats(weight="bf16", head="bf16", rotated=False),
    "Lite": Formats(weight="int8", head="int8", rotated=False),
    "Nano": Formats(weight="int4", head="int8", rotated=False),
}
HEAD_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"Nano": ("int8", "int4")}
"""Variants whose head format may be chosen, the default first."""


def variant_named(name: str) -> str:
    """The variant's own spelling, whatever the case; raises UnsupportedModel."""
    for variant in VARIANTS:
        if variant.casefold() == name.casefold():
            return variant
    raise UnsupportedModel(f"variant ({name}) must be one of {', '.join(VARIANTS)}")


def formats(variant: str, *, head: str | None = None, calibrated: bool = False) -> Formats:
    """What the variant packs; `head` replaces its head format where it leaves the choice. Raises UnsupportedModel.

    A calibrated Lite is rotated: together they cost far less quality than either alone.
    """
    chosen = VARIANTS[variant_named(variant)]
    if calibrated:
        if chosen.weight == "bf16":
            raise UnsupportedModel(f"calibrating is for int8 and int4 weights, {variant_named(variant)} has bf16 ones")
        chosen = replace(chosen, rotated=chosen.weight == "int8")
    if head is None:
        return chosen
    if head not in (choices := HEAD_CHOICES.get(variant_named(variant), (chosen.head,))):
        raise UnsupportedModel(f"head ({head}) must be {' or '.join(choices)} for variant {variant_named(variant)}")
    return replace(chosen, head=head)
