"""Which nodes pods may run on, and how they spread over them: the words of the Pod API, bounded."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from flash_api.rules import Rule, cel_string
from flash_api.v1alpha1.base import (
    LABEL_KEY_PATTERN,
    LIST_OF_ITS_OWN,
    ApiModel,
    LabelKey,
    LabelValueOrEmpty,
    ObjectName,
)


class TolerationOperator(StrEnum):
    """How a toleration is compared with a taint."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class TaintEffect(StrEnum):
    """What a taint does to a pod that does not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint that does not keep the pods away."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="ExistsHasNoValue",
            field="value",
            cel="!has(self.value) || self.operator == 'Equal'",
            holds=lambda self: self.value is None or self.operator is TolerationOperator.EQUAL,
            rule="must be unset when operator is {self.operator}",
            remedy="remove value, or use the operator Equal",
        ),
        Rule(
            name="EqualNamesATaint",
            field="key",
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda self: self.key is not None or self.operator is TolerationOperator.EXISTS,
            rule="must be set when operator is {self.operator}",
            shows_value=False,
            remedy="write the key of the taint, or use the operator Exists to tolerate every taint",
        ),
        Rule(
            name="OnlyEvictionCanWait",
            field="tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda self: self.toleration_seconds is None or self.effect is TaintEffect.NO_EXECUTE,
            rule="must be unset unless effect is NoExecute",
            remedy="remove tolerationSeconds, or write effect: NoExecute",
        ),
    )

    key: LabelKey | None = Field(
        default=None, description="Key of the taint; unset = every taint, with operator Exists. Example: gpu."
    )
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL,
        description="Equal: key and value are the taint's; Exists: the key is. Example: Exists.",
    )
    value: LabelValueOrEmpty | None = Field(default=None, description="Value of the taint. Example: present.")
    effect: TaintEffect | None = Field(
        default=None, description="Effect of the taint; unset = every effect. Example: NoSchedule."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=604_800,
        description="Time that a pod stays on a node with a NoExecute taint, in seconds; unset = for ever. "
        "Example: 300.",
    )


class TopologySpread(ApiModel):
    """How evenly pods of one component spread."""

    topology_key: LabelKey = Field(
        description="Node label whose values are the places to spread over. Example: topology.kubernetes.io/zone."
    )
    max_skew: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Largest difference in pods between two places, as a count. Example: 1.",
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        default="ScheduleAnyway",
        description="Whether a pod waits or runs anyway when it cannot be even. Example: DoNotSchedule.",
    )


def _each_place_once(spreads: list[TopologySpread]) -> list[TopologySpread]:
    if len({(spread.topology_key, spread.when_unsatisfiable) for spread in spreads}) != len(spreads):
        raise PydanticCustomError("repeated", "must hold each topologyKey with one whenUnsatisfiable once")
    return spreads


class Placement(ApiModel):
    """Which nodes the pods of a deployment may run on, and how they spread."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="NodeSelectorNamesLabels",
            field="nodeSelector",
            cel=f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.matches({cel_string(LABEL_KEY_PATTERN)}))",
            holds=lambda self: all(re.fullmatch(LABEL_KEY_PATTERN, key) for key in self.node_selector or ()),
            rule="must have keys that are labels",
            shows_value=False,
            remedy="write keys such as gpu or topology.kubernetes.io/zone",
        ),
    )

    node_selector: Annotated[dict[str, LabelValueOrEmpty], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="Labels that a node must have. Example: {node.kubernetes.io/instance-type: c7i.4xlarge}.",
    )
    tolerations: Annotated[list[Toleration], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="Taints that do not keep the pods away. Example: [{key: gpu, operator: Exists}].",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the pods; unset = the cluster's default. Example: serving."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of engine and draft pods; unset = the node's default. Example: nvidia."
    )
    topology_spread: (
        Annotated[list[TopologySpread], Field(min_length=1, max_length=4), AfterValidator(_each_place_once)] | None
    ) = Field(
        default=None,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["topologyKey", "whenUnsatisfiable"],
        },
        description="How evenly the pods of each component spread. Example: [{topologyKey: "
        "topology.kubernetes.io/zone}].",
    )
