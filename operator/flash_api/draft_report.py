"""What a gateway tells of the proposals that its engines verify, in a header beside the answer of `/readyz`.

Figures are of the last minutes, over all engines. Nothing in it is about a client.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

HEADER: Final = "Flashplane-Draft"
TEXT_MAX: Final = 1024
"""Longer headers are not ours."""


class DraftReport(BaseModel):
    """What proposals are worth. None = nothing was generated lately that would tell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    active: bool | None = None
    """Whether proposals are used."""
    why_not: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$", max_length=64)] | None = None
    """Why they are not, as an engine names it: `below_break_even`."""
    acceptance: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the proposed tokens that held."""
    tokens_per_step: Annotated[float, Field(ge=1, le=1000)] | None = None
    speedup: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Tokens per second with proposals over those without, as engines measure it."""

    def encode(self) -> str:
        """As the header's value."""
        return self.model_dump_json(exclude_none=True)


def told(header: str) -> DraftReport | None:
    """What the header says; None = it is not there, or not ours."""
    if not header or len(header) > TEXT_MAX:
        return None
    try:
        return DraftReport.model_validate_json(header)
    except ValidationError:
        return None
