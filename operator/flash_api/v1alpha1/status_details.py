"""The parts of a status beside its conditions: pods, failures, latency, scaling, rollout, start, residency."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from flash_api.v1alpha1.base import LIST_OF_ITS_OWN, ApiModel

GENERATION_MAX: Final = 2**53 - 1
"""Of counters without a natural end: the largest whole number that every JSON reader keeps exactly."""
HISTORY_MAX: Final = 10
REPLICAS_MAX: Final = 100_000
MILLISECONDS_MAX: Final = 86_400_000
PERCENT_MAX: Final = 100_000
"""Of what may be many times as much as something else."""

TIME: Final[dict[str, Any]] = {"format": "date-time"}

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]*$", min_length=1, max_length=64)]
Message = Annotated[str, StringConstraints(max_length=2048)]
ShortMessage = Annotated[str, StringConstraints(max_length=512)]
Name = Annotated[str, StringConstraints(max_length=253)]
Digest = Annotated[str, StringConstraints(max_length=71)]
Time = Annotated[str, StringConstraints(max_length=32)]
Count = Annotated[int, Field(ge=0, le=REPLICAS_MAX)]
Milliseconds = Annotated[int, Field(ge=0, le=MILLISECONDS_MAX)]
Bytes = Annotated[int, Field(ge=0, le=GENERATION_MAX)]
Percent = Annotated[int, Field(ge=0, le=100)]
Generation = Annotated[int, Field(ge=0, le=GENERATION_MAX)]


class ReplicaStatus(ApiModel):
    """Pods of one component."""

    desired: Count = Field(default=0, description="Pods wanted, as a count. Example: 2.")
    replicas: Count = Field(default=0, description="Pods that exist, old ones included, as a count. Example: 3.")
    ready: Count = Field(default=0, description="Pods that passed their readiness probe, as a count. Example: 2.")
    updated: Count = Field(default=0, description="Pods of the newest revision, as a count. Example: 1.")
    starting: Count = Field(
        default=0, description="Pods that exist and are not ready yet or any more, as a count. Example: 1."
    )
    selector: Annotated[str, StringConstraints(max_length=512)] = Field(
        default="",
        description="Labels that pick these pods, for kubectl and autoscalers. "
        "Example: flashplane.dev/deployment=chat,app.kubernetes.io/component=engine.",
    )


class DraftStatus(ReplicaStatus):
    """Draft pods, and what proposals are worth, wherever they come from."""

    active: bool | None = Field(
        default=None,
        description="Whether proposals are used now; false where they cost more than they bring. Example: true.",
    )
    acceptance_percent: Percent | None = Field(
        default=None, description="Share of the proposed tokens that were accepted lately, in percent. Example: 71."
    )
    why_not: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None,
        description="Why proposals are not used, as one word of a closed list; unset = they are. "
        "Example: BelowBreakEven.",
    )
    tokens_per_step: Annotated[str, StringConstraints(max_length=8)] | None = Field(
        default=None,
        description="Tokens that a request got from one step of the engine lately, in the mean, as a decimal number; "
        "1.0 = as many as without proposals. Example: 2.4.",
    )
    speedup_percent: Annotated[int, Field(ge=0, le=PERCENT_MAX)] | None = Field(
        default=None,
        description="Tokens per second with proposals as a share of those without, in percent; 100 = no difference. "
        "Example: 168.",
    )


class LastFailure(ApiModel):
    """The newest failure of a container, as far as it is still of interest."""

    pod: Name = Field(description="Name of the pod. Example: chat-engine-7d9c5-x2x7q.")
    container: Name = Field(description="Name of the container. Example: engine.")
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = Field(
        default=None, description="Exit code of the process, as a number; 137 = killed, often for memory. Example: 137."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="", description="What Kubernetes calls it. Example: OOMKilled."
    )
    message: ShortMessage = Field(default="", description="Last line of error. Example: digest mismatch.")
    time: Time | None = Field(
        default=None, json_schema_extra=TIME, description="When it ended, RFC 3339. Example: 2026-01-01T12:00:00Z."
    )


class ModelFacts(ApiModel):
    """The model as it was loaded."""

    name: Annotated[str, StringConstraints(max_length=256)] = Field(
        default="", description="Name of the model as its source gives it. Example: SmolLM2-135M-Instruct."
    )
    digest: Digest = Field(
        default="",
        description="Digest of the weights that were packed: sha256: and 64 hexadecimal digits. "
        "Example: sha256:9f86d08….",
    )
    size_bytes: Bytes | None = Field(default=None, description="Packed size in bytes. Example: 141557760.")


class Latency(ApiModel):
    """What users felt lately, in steps that keep an idle object from being written."""

    ttft_milliseconds: Milliseconds | None = Field(
        default=None,
        description="Time to the first token that nine of ten requests stayed below, in milliseconds. Example: 62.",
    )
    tpot_milliseconds: Milliseconds | None = Field(
        default=None,
        description="Time per further token that nine of ten requests stayed below, in milliseconds. Example: 18.",
    )


class ScalingEvent(ApiModel):
    """One change of the number of engine pods."""

    time: Time = Field(json_schema_extra=TIME, description="When, RFC 3339. Example: 2026-01-01T12:00:00Z.")
    from_replicas: Count = Field(description="Engine pods wanted before, as a count. Example: 2.")
    to_replicas: Count = Field(description="Engine pods wanted since, as a count. Example: 4.")
    reason: Word = Field(description="Why, as one word of a closed list. Example: TtftAboveTarget.")
    message: ShortMessage = Field(
        default="", description="Why, with the figures. Example: p90 TTFT 240 ms, target 150 ms."
    )


class AutoscalerStatus(ApiModel):
    """The object of another controller that sets the number of engine pods, and what it did."""

    kind: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="Kind of the object. Example: HorizontalPodAutoscaler."
    )
    name: Name = Field(description="Name of the object. Example: chat-engine.")
    replicas: Count = Field(default=0, description="Engine pods that are set now, as a count. Example: 4.")
    history: Annotated[list[ScalingEvent], Field(max_length=HISTORY_MAX)] = Field(
        default_factory=list,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="Last numbers that it set, the newest first, at most 10, each with the reason for which it was "
        "asked to. Example: [{fromReplicas: 2, toReplicas: 4}].",
    )


class ScalingStatus(ApiModel):
    """What autoscaling decided, and why."""

    desired_replicas: Count = Field(default=0, description="Engine pods that it wants now, as a count. Example: 4.")
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="", description="Why that many, as one word of a closed list. Example: WithinTargets."
    )
    message: ShortMessage = Field(
        default="", description="Why that many, as a sentence. Example: p90 TTFT 90 ms, target 150 ms."
    )
    schedule: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="", description="Name of the schedule that holds now; empty = none. Example: office-hours."
    )
    last_scale_time: Time | None = Field(
        default=None,
        json_schema_extra=TIME,
        description="When the number last changed, RFC 3339. Example: 2026-01-01T12:00:00Z.",
    )
    history: Annotated[list[ScalingEvent], Field(max_length=HISTORY_MAX)] = Field(
        default_factory=list,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="Last changes, the newest first, at most 10. Example: [{fromReplicas: 2, toReplicas: 4}].",
    )
    autoscaler: AutoscalerStatus | None = Field(
        default=None,
        description="What carries the decision out; unset = the operator does. "
        "Example: {kind: HorizontalPodAutoscaler, name: chat-engine, replicas: 4}.",
    )


class RolloutEvent(ApiModel):
    """One revision, and what became of it."""

    revision: Annotated[str, StringConstraints(max_length=63)] = Field(
        description="Template hash of the revision. Example: 7d9c5b6f4."
    )
    start_time: Time = Field(
        json_schema_extra=TIME, description="When it began, RFC 3339. Example: 2026-01-01T12:00:00Z."
    )
    end_time: Time | None = Field(
        default=None,
        json_schema_extra=TIME,
        description="When it was complete or given up, RFC 3339; unset = under way. Example: 2026-01-01T12:04:00Z.",
    )
    result: Literal["InProgress", "Complete", "Superseded", "RolledBack", "Failed"] = Field(
        description="What became of it. Example: Complete."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="", description="Why, as one word of a closed list; empty = nothing is decided. Example: CanaryErrors."
    )
    message: ShortMessage = Field(default="", description="Why, as a sentence. Example: replaced by 5f7c9.")


REPLACING: Final = "Replacing"
"""The step of a rolling update that is under way."""


class RolloutStatus(ApiModel):
    """How far the newest revision has got."""

    revision: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="", description="Template hash of the newest revision. Example: 7d9c5b6f4."
    )
    previous_revision: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="", description="Template hash of the revision that is being replaced; empty = none. Example: 5f7c9."
    )
    step: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="", description="What happens now, as one word. Example: Draining."
    )
    paused: bool | None = Field(default=None, description="Whether it stands still on request. Example: true.")
    canary_percent: Percent | None = Field(
        default=None, description="Share of requests that the newest revision gets, in percent. Example: 10."
    )
    history: Annotated[list[RolloutEvent], Field(max_length=HISTORY_MAX)] = Field(
        default_factory=list,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="Last revisions, the newest first, at most 10. Example: [{revision: 7d9c5, result: Complete}].",
    )


class ColdStart(ApiModel):
    """Where the time of the newest engine pod's start went, in whole seconds: finer times no kubelet tells."""

    pod: Name = Field(default="", description="Name of the pod. Example: chat-engine-7d9c5-x2x7q.")
    scheduled_milliseconds: Milliseconds | None = Field(
        default=None, description="From creation to a node, in milliseconds. Example: 40."
    )
    image_milliseconds: Milliseconds | None = Field(
        default=None, description="To fetch the images, in milliseconds. Example: 8000."
    )
    model_milliseconds: Milliseconds | None = Field(
        default=None, description="To fetch, verify and pack the model, in milliseconds. Example: 21000."
    )
    load_milliseconds: Milliseconds | None = Field(
        default=None,
        description="From the engine's start to ready: map the model and warm up, in milliseconds. Example: 2000.",
    )
    warmup_milliseconds: Milliseconds | None = Field(
        default=None, description="To answer the first request, in milliseconds. Example: 150."
    )
    total_milliseconds: Milliseconds | None = Field(
        default=None, description="From creation to ready, in milliseconds. Example: 29500."
    )


class ResidencyStatus(ApiModel):
    """Where everything is."""

    compliant_pods: Count = Field(default=0, description="Pods on nodes in allowed regions, as a count. Example: 3.")
    total_pods: Count = Field(default=0, description="Pods that have a node, as a count. Example: 3.")
    violations: Annotated[list[ShortMessage], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="What is outside, at most 16. Example: [pod chat-engine-0 on node n7 in us-east-1].",
    )
