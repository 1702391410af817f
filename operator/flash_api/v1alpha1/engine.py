"""The pods that run the model, and the draft model that runs ahead of it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

from pydantic import Field

from flash_api.quantities import number
from flash_api.rules import Rule
from flash_api.v1alpha1.autoscaling import REPLICAS_MAX, Autoscaling
from flash_api.v1alpha1.base import ApiModel, Quantity, quantity_at_least
from flash_api.v1alpha1.resources import Resources
from flash_api.v1alpha1.source import ModelChoice


class KVCacheDtype(StrEnum):
    """How a key or value is stored."""

    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class KVCache(ApiModel):
    """The memory that holds keys and values of running requests."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        quantity_at_least("KvCacheIsUsable", "memory", "1Mi", "write bytes with a suffix, such as 512Mi"),
    )

    memory: Quantity = Field(default="512Mi", description="Bytes of one engine replica's KV cache. Example: 2Gi.")
    dtype: KVCacheDtype = Field(
        default=KVCacheDtype.BFLOAT16,
        description="How keys and values are stored; int8 holds nearly twice the tokens in the same memory, at a small "
        "cost in quality. Example: int8.",
    )


class Engine(ApiModel):
    """The pods that run the model: tritonserver with our Python-backend engine."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="KvCacheFitsInMemory",
            field="kvCache.memory",
            cel="!has(self.resources.memory) || !isQuantity(self.resources.memory) || "
            "!isQuantity(self.kvCache.memory) || "
            "quantity(self.kvCache.memory).isLessThan(quantity(self.resources.memory))",
            holds=lambda self: (
                self.resources.memory is None or number(self.kv_cache.memory) < number(self.resources.memory)
            ),
            rule="must be less than resources.memory ({self.resources.memory})",
            remedy="raise resources.memory or lower kvCache.memory: the weights need room beside the cache",
        ),
        Rule(
            name="ReplicasAreFixedOrScaled",
            field="replicas",
            cel="!has(self.replicas) || !has(self.autoscaling)",
            holds=lambda self: self.replicas is None or self.autoscaling is None,
            rule="must be unset when autoscaling is set",
            remedy="remove replicas, which kubectl scale may have written, and change autoscaling.minReplicas, or "
            "remove autoscaling",
        ),
    )

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=REPLICAS_MAX,
        description="Number of engine pods; unset = 1, or what autoscaling decides. Write it where kubectl scale or a "
        "HorizontalPodAutoscaler is to change it. Example: 2.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Lets the number of engine pods follow the load, instead of replicas."
    )
    resources: Resources = Field(default=Resources(), description="CPU and memory of one engine pod.")
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=1024, description="Requests that one engine pod works on at once; more wait. Example: 16."
    )
    kv_cache: KVCache = Field(default=KVCache(), description="Memory for keys and values of running requests.")

    @property
    def fixed_replicas(self) -> int:
        """The number of engine pods when nothing scales them; with autoscaling, where it starts."""
        if self.autoscaling is not None:
            return self.autoscaling.min_replicas
        return 1 if self.replicas is None else self.replicas


LOOKAHEAD_MAX: Final = 8
"""Tokens that may be proposed at once."""


class DraftMode(StrEnum):
    """Where proposals for the next tokens come from."""

    PODS = "Pods"
    IN_PROCESS = "InProcess"
    PROMPT_LOOKUP = "PromptLookup"
    OFF = "Off"


class DraftPlacement(StrEnum):
    """How near draft pods must be to the engine pods that they serve."""

    SAME_NODE = "SameNode"
    SAME_ZONE = "SameZone"
    SAME_REGION = "SameRegion"


class Draft(ApiModel):
    """Speculative decoding: a small model proposes tokens, the engine verifies them. Answers stay the same."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="DraftHasAModel",
            field="model",
            cel="has(self.model) || !(self.mode in ['Pods', 'InProcess'])",
            holds=lambda self: self.model is not None or self.mode not in (DraftMode.PODS, DraftMode.IN_PROCESS),
            rule="must be set when mode is {self.mode}",
            shows_value=False,
            remedy="name a small model with the same tokenizer, or use the mode PromptLookup, which needs none",
        ),
        Rule(
            name="PromptLookupNeedsNoModel",
            field="model",
            cel="!has(self.model) || self.mode != 'PromptLookup'",
            holds=lambda self: self.model is None or self.mode is not DraftMode.PROMPT_LOOKUP,
            rule="must be unset when mode is PromptLookup",
            shows_value=False,
            remedy="remove model: proposals come from the prompt itself",
        ),
        Rule(
            name="OnlyPodsHaveReplicas",
            field="replicas",
            cel="!has(self.replicas) || self.mode in ['Pods', 'Off']",
            holds=lambda self: self.replicas is None or self.mode in (DraftMode.PODS, DraftMode.OFF),
            rule="must be unset when mode is {self.mode}, which has no pods of its own",
            remedy="remove replicas, or use the mode Pods",
        ),
        Rule(
            name="OnlyPodsHaveResources",
            field="resources",
            cel="!has(self.resources) || self.mode in ['Pods', 'Off']",
            holds=lambda self: self.resources is None or self.mode in (DraftMode.PODS, DraftMode.OFF),
            rule="must be unset when mode is {self.mode}, which has no pods of its own",
            shows_value=False,
            remedy="remove resources and give engine.resources what the draft needs, or use the mode Pods",
        ),
        Rule(
            name="OnlyPodsHaveAPlace",
            field="placement",
            cel="!has(self.placement) || self.mode in ['Pods', 'Off']",
            holds=lambda self: self.placement is None or self.mode in (DraftMode.PODS, DraftMode.OFF),
            rule="must be unset when mode is {self.mode}, which has no pods of its own",
            remedy="remove placement, or use the mode Pods",
        ),
    )

    mode: DraftMode = Field(
        default=DraftMode.PODS,
        description="Where proposals come from: Pods = draft pods of their own; InProcess = a draft model inside the "
        "engine; PromptLookup = text of the prompt; Off = none. Example: Pods.",
    )
    model: ModelChoice | None = Field(
        default=None, description="The small model; it must have the tokenizer of the model that it drafts for."
    )
    replicas: int | None = Field(
        default=None,
        ge=1,
        le=REPLICAS_MAX,
        description="Number of draft pods, as a count; unset = as many as engine pods. Example: 1.",
    )
    lookahead: int | None = Field(
        default=None,
        ge=1,
        le=LOOKAHEAD_MAX,
        description="Tokens proposed at once, as a count; unset = automatic: as many as pay, by what engines measure. "
        "Example: 4.",
    )
    placement: DraftPlacement | None = Field(
        default=None,
        description="How near draft pods must be to engine pods: SameNode, SameZone or SameRegion; unset = SameNode. "
        "Example: SameNode.",
    )
    resources: Resources | None = Field(default=None, description="CPU and memory of one draft pod.")

    @property
    def in_pods(self) -> bool:
        """Whether there are draft pods, which need a small model."""
        return self.mode is DraftMode.PODS and self.model is not None

    @property
    def in_process(self) -> ModelChoice | None:
        """The small model that runs inside the engine, where one does."""
        return self.model if self.mode is DraftMode.IN_PROCESS else None
