"""Fields that the API has and the planner does not act on yet, each with what to do instead.

An entry leaves this list in the change that makes the planner act on its field. What the list does not name is in
force: a test compares the plan with and without every field of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Unserved:
    """A field of the spec that would have no effect."""

    path: str
    """In wire names, below `spec`."""
    instead: str
    """What to do instead, as a sentence."""
    harmless: tuple[object, ...] = ()
    """Values that ask for what happens anyway."""
    served_with: tuple[str, ...] = ()
    """Fields beside which it is in force."""
    but_where: tuple[str, tuple[object, ...]] | None = None
    """A field, and its values with which it is in force."""


UNSERVED: Final = (
    Unserved(
        "draft.model.modelRef",
        "Write mode: Pods, whose pods mount the FlashModel; or write its source into spec.draft.model.source.",
        but_where=("draft.mode", ("Pods", "Off")),
    ),
    Unserved(
        "engine.autoscaling.scaleToZeroAfterSeconds",
        "Remove it: this release keeps minReplicas engine pods, and at least one.",
    ),
)
