"""What one pass learned of a FlashDeployment, and a condition before it has a time. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.draft_report import DraftReport
from flash_api.v1alpha1.engine import Draft
from flash_api.v1alpha1.status import RolloutStatus, ScalingStatus
from flash_operator.doors import Door
from flash_operator.residency import Finding
from flash_operator.shared_model import ModelUse

Manifest = Mapping[str, Any]
Tristate = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class ProbeResult:
    """What a request through the endpoint brought."""

    ok: bool
    message: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """What users felt lately, by name, as the gateway that answered says."""
    draft: DraftReport | None = None
    """What proposals are worth, as it says; None = it said nothing of it."""


@dataclass(frozen=True)
class Hindrance:
    """Why the decision is not carried out, or is not known to be, where another controller has to."""

    reason: Reason
    message: str

    @property
    def is_certain(self) -> bool:
        return self.reason is not Reason.PROVIDER_PENDING


@dataclass(frozen=True)
class Observation:
    """Everything that one pass learned."""

    name: str
    generation: int
    children: Sequence[Manifest] = ()
    probe: ProbeResult | None = None
    """None = not asked, because a part before it is not ready."""
    refusal: Refusal | None = None
    unread: str | None = None
    """Why the children could not be read: nothing is known of them, which is not the same as that they are missing."""
    error: str | None = None
    """Why the plan could not be applied."""
    error_is_final: bool = False
    """The cluster will say the same again until the spec or the cluster changes."""
    endpoint: str = ""
    """Base URL for clients, with `/v1`."""
    ignored_fields: tuple[str, ...] = ()
    pods: Sequence[Manifest] = ()
    """Live pods of all roles; empty where there are none to look at, as on one machine."""
    applied_revision: str = ""
    """Of the plan that this pass applied as a whole; empty = it did not."""
    suspended: bool = False
    paused: bool = False
    """The spec asks that a rollout stand still."""
    missing_kinds: tuple[tuple[str, str], ...] = ()
    """API version and kind of what the spec asks for and this cluster does not know."""
    door: Door | None = None
    """Where clients find the endpoint; None = not looked at."""
    residency: Finding | None = None
    """None = the spec has none."""
    policy_enforced: bool | None = None
    """Whether the cluster's network enforces NetworkPolicy; None = nobody said."""
    model: ModelUse | None = None
    """The FlashModel that the spec names; None = it names none."""
    draft: Draft | None = None
    """As the spec has it."""
    draft_model: ModelUse | None = None
    """The FlashModel that the draft pods use; None = they use none."""
    held: bool = False
    """A part of the plan is not applied, because its pods would mount what the FlashModel does not hold yet."""
    scaling: ScalingStatus | None = None
    """What autoscaling decided; None = it is off."""
    scaling_hindered: Hindrance | None = None
    """Why another controller does not carry the decision out."""
    rollout: RolloutStatus | None = None
    """How far the newest revision has got; None = nothing was ever planned."""
    enough_engines: int | None = None
    """Engine pods that suffice while more are wanted, as where autoscaling adds them; None = all that are wanted."""


@dataclass(frozen=True)
class Fact:
    """A condition before it has a time."""

    type: ConditionType
    status: Tristate
    reason: Reason
    message: str = ""

    @property
    def holds(self) -> bool:
        return self.status == "True"
