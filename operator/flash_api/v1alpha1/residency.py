"""Where prompts, weights and answers may be. A promise: it is never weakened for an object that exists."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from flash_api.rules import Rule
from flash_api.v1alpha1.base import LIST_AS_SET, ApiModel, LabelValue, each_once


class ResidencyMode(StrEnum):
    """What happens to what would be outside."""

    ENFORCE = "Enforce"
    AUDIT = "Audit"


class Residency(ApiModel):
    """The regions that pods, caches, volumes and routes stay in."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="RegionsNeverChange",
            field="regions",
            cel="self.regions.all(r, r in oldSelf.regions) && oldSelf.regions.all(r, r in self.regions)",
            holds=lambda self, old: set(self.regions) == set(old.regions),
            rule="must not change",
            shows_value=False,
            remedy="make another deployment for other regions: data that is here stays where it was promised to be",
            of_change=True,
        ),
        Rule(
            name="EnforcementIsNeverWeakened",
            field="mode",
            cel="self.mode == oldSelf.mode || self.mode == 'Enforce'",
            holds=lambda self, old: self.mode is old.mode or self.mode is ResidencyMode.ENFORCE,
            rule="must not go back from Enforce",
            remedy="make another deployment: what was promised for this one stays promised",
            of_change=True,
        ),
    )

    regions: Annotated[list[LabelValue], Field(min_length=1, max_length=16), AfterValidator(each_once)] = Field(
        json_schema_extra=LIST_AS_SET,
        description="Allowed values of the node label topology.kubernetes.io/region, for every pod, cache and volume. "
        "Example: [eu-central-1].",
    )
    mode: ResidencyMode = Field(
        default=ResidencyMode.ENFORCE,
        description="Enforce: what would be outside is not started or is stopped; Audit: it is told in the status. "
        "Example: Enforce.",
    )
