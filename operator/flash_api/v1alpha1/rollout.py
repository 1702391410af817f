"""How a new revision takes the place of the old one."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from flash_api.rules import Rule
from flash_api.v1alpha1.base import ApiModel


class RolloutStrategy(StrEnum):
    """The orders in which pods are replaced."""

    ROLLING_UPDATE = "RollingUpdate"
    CANARY = "Canary"


class Rollout(ApiModel):
    """How a new revision takes the place of the old one; engines and drafts always go together."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="CanaryHasAShare",
            field="canaryPercent",
            cel="has(self.canaryPercent) || self.strategy != 'Canary'",
            holds=lambda self: self.canary_percent is not None or self.strategy is not RolloutStrategy.CANARY,
            rule="must be set when strategy is Canary",
            shows_value=False,
            remedy="write the share of requests for the new revision, such as 10",
        ),
        Rule(
            name="OnlyCanaryHasAShare",
            field="canaryPercent",
            cel="!has(self.canaryPercent) || self.strategy == 'Canary'",
            holds=lambda self: self.canary_percent is None or self.strategy is RolloutStrategy.CANARY,
            rule="must be unset when strategy is {self.strategy}",
            remedy="remove canaryPercent, or use the strategy Canary",
        ),
        Rule(
            name="OnlyCanaryCountsRequests",
            field="canaryRequests",
            cel="!has(self.canaryRequests) || self.strategy == 'Canary'",
            holds=lambda self: self.canary_requests is None or self.strategy is RolloutStrategy.CANARY,
            rule="must be unset when strategy is {self.strategy}",
            remedy="remove canaryRequests, or use the strategy Canary",
        ),
        Rule(
            name="OnlyCanaryComparesLatency",
            field="canaryLatencyPercent",
            cel="!has(self.canaryLatencyPercent) || self.strategy == 'Canary'",
            holds=lambda self: self.canary_latency_percent is None or self.strategy is RolloutStrategy.CANARY,
            rule="must be unset when strategy is {self.strategy}",
            remedy="remove canaryLatencyPercent, or use the strategy Canary",
        ),
        Rule(
            name="CanaryNeedsRoom",
            field="surge",
            cel="self.strategy != 'Canary' || self.surge == 1",
            holds=lambda self: self.strategy is not RolloutStrategy.CANARY or self.surge == 1,
            rule="must be 1 when strategy is {self.strategy}, which runs both revisions side by side",
            remedy="write surge: 1, or use the strategy RollingUpdate",
        ),
    )

    strategy: RolloutStrategy = Field(
        default=RolloutStrategy.ROLLING_UPDATE,
        description="RollingUpdate: one pod after the other; Canary: a share of the requests first, the rest after it "
        "has proved itself. Example: Canary.",
    )
    canary_percent: int | None = Field(
        default=None,
        ge=1,
        le=50,
        description="Share of conversations that the new revision gets at first, in percent. Example: 10.",
    )
    canary_requests: int | None = Field(
        default=None,
        ge=10,
        le=100_000,
        description="Requests that the new revision must have answered before it gets all of them, as a count; "
        "unset = 100. Example: 500.",
    )
    canary_latency_percent: int | None = Field(
        default=None,
        ge=100,
        le=1000,
        description="Time to the first token, and per further token, above which the new revision is taken back, in "
        "percent of that of the former one; compared are the times that nine of ten requests stay below; unset = 130. "
        "Example: 150.",
    )
    surge: int = Field(
        default=1,
        ge=0,
        le=1,
        description="Engine pods beyond the wanted number while replacing, as a count: 1 = the new one comes first, "
        "0 = the old one goes first, for nodes without room for both. Example: 1.",
    )
    paused: bool = Field(
        default=False, description="Whether a rollout stops where it is until this is false again. Example: true."
    )
    progress_deadline_seconds: int = Field(
        default=1800,
        ge=60,
        le=86_400,
        description="Time without progress after which a rollout counts as stuck, in seconds; a canary that has not "
        "proved itself by then is taken back. Example: 1800.",
    )
