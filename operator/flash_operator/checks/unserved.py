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


UNSERVED: Final = (
    Unserved(
        "draft.mode",
        "Write mode: InProcess, which runs the draft inside the engine, or PromptLookup, which needs no model; answers "
        "are the same.",
        harmless=("InProcess", "PromptLookup", "Off"),
    ),
    Unserved("draft.model.modelRef", "Write the source of the FlashModel into spec.draft.model.source."),
    Unserved(
        "engine.autoscaling.provider",
        "Use BuiltIn, or replace spec.engine.autoscaling by spec.engine.replicas and point a HorizontalPodAutoscaler "
        "or a ScaledObject of your own at the scale subresource of this FlashDeployment.",
        harmless=("BuiltIn",),
    ),
    Unserved(
        "engine.autoscaling.scaleToZeroAfterSeconds",
        "Remove it: this release keeps minReplicas engine pods, and at least one.",
    ),
)
