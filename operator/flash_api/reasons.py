"""The names of conditions and the closed list of reasons. What they mean stands in `conditions.py`.

Reasons are API: scripts wait for them and the documentation explains each, so one is added but never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """The facts a status states, in the order in which it lists them; MEANINGS says what each means."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ACCEPTED = "Accepted"
    MODEL_READY = "ModelReady"
    ENGINES_READY = "EnginesReady"
    DRAFT_READY = "DraftReady"
    ENDPOINT_READY = "EndpointReady"
    RESIDENCY_COMPLIANT = "ResidencyCompliant"
    NETWORK_ISOLATED = "NetworkIsolated"
    SCALING_ACTIVE = "ScalingActive"
    DOWNLOADED = "Downloaded"
    PACKED = "Packed"


class Reason(StrEnum):
    """Why a condition has its status."""

    # Ready, Reconciling, Stalled
    SERVING = "Serving"
    IN_PROGRESS = "InProgress"
    SETTLED = "Settled"
    PROGRESSING = "Progressing"
    APPLY_FAILED = "ApplyFailed"
    READ_FAILED = "ReadFailed"
    # Accepted
    SPEC_ACCEPTED = "SpecAccepted"
    INVALID_SPEC = "InvalidSpec"
    SOURCE_NOT_SERVED = "SourceNotServed"
    FIELD_NOT_SERVED = "FieldNotServed"
    MODEL_OUTSIDE_REGION = "ModelOutsideRegion"
    DRAFT_SHARES_TOKENIZER = "DraftSharesTokenizer"
    # ModelReady
    MODEL_LOADED = "ModelLoaded"
    MODEL_LOADING = "ModelLoading"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_NOT_CACHED = "ModelNotCached"
    VARIANT_NOT_PACKED = "VariantNotPacked"
    # EnginesReady
    ALL_ENGINES_READY = "AllEnginesReady"
    ENGINES_MISSING = "EnginesMissing"
    ENGINES_STARTING = "EnginesStarting"
    ENGINES_UPDATING = "EnginesUpdating"
    ENGINES_FAILING = "EnginesFailing"
    ENGINES_STUCK = "EnginesStuck"
    SCALED_TO_ZERO = "ScaledToZero"
    SUSPENDED = "Suspended"
    ROLLOUT_PAUSED = "RolloutPaused"
    CANARY_RUNNING = "CanaryRunning"
    CANARY_PROVED = "CanaryProved"
    CANARY_FAILING = "CanaryFailing"
    CANARY_ERRORS = "CanaryErrors"
    CANARY_SLOWER = "CanarySlower"
    CANARY_INCONCLUSIVE = "CanaryInconclusive"
    # DraftReady
    DRAFTS_READY = "DraftsReady"
    DRAFTS_MISSING = "DraftsMissing"
    DRAFTS_STARTING = "DraftsStarting"
    DRAFTS_UPDATING = "DraftsUpdating"
    DRAFTS_FAILING = "DraftsFailing"
    DRAFTS_STUCK = "DraftsStuck"
    BELOW_BREAK_EVEN = "BelowBreakEven"
    TOKENIZER_DIFFERS = "TokenizerDiffers"
    # EndpointReady
    ENDPOINT_ANSWERS = "EndpointAnswers"
    GATEWAY_MISSING = "GatewayMissing"
    GATEWAY_STARTING = "GatewayStarting"
    GATEWAY_UPDATING = "GatewayUpdating"
    GATEWAY_FAILING = "GatewayFailing"
    GATEWAY_STUCK = "GatewayStuck"
    ENDPOINT_SILENT = "EndpointSilent"
    WAITING_FOR_ENGINES = "WaitingForEngines"
    ROUTE_NOT_ACCEPTED = "RouteNotAccepted"
    KIND_NOT_SERVED = "KindNotServed"
    LOAD_BALANCER_PENDING = "LoadBalancerPending"
    CERTIFICATE_PENDING = "CertificatePending"
    NOT_APPLIED = "NotApplied"
    # ResidencyCompliant
    ALL_IN_REGION = "AllInRegion"
    REGION_UNKNOWN = "RegionUnknown"
    REGION_UNAVAILABLE = "RegionUnavailable"
    OUTSIDE_REGION = "OutsideRegion"
    # NetworkIsolated
    POLICY_ENFORCED = "PolicyEnforced"
    POLICY_NOT_ENFORCED = "PolicyNotEnforced"
    # ScalingActive
    WITHIN_TARGETS = "WithinTargets"
    TTFT_ABOVE_TARGET = "TtftAboveTarget"
    TPOT_ABOVE_TARGET = "TpotAboveTarget"
    QUEUE_ABOVE_TARGET = "QueueAboveTarget"
    LOAD_BELOW_TARGETS = "LoadBelowTargets"
    PODS_ARE_STARTING = "PodsAreStarting"
    STABILIZING = "Stabilizing"
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    SCHEDULE_HOLDS = "ScheduleHolds"
    METRICS_MISSING = "MetricsMissing"
    PROVIDER_MISSING = "ProviderMissing"
    PROVIDER_PENDING = "ProviderPending"
    PROVIDER_FAILING = "ProviderFailing"
    # Downloaded, Packed (FlashModel)
    DOWNLOADING = "Downloading"
    VERIFIED = "Verified"
    DIGEST_MISMATCH = "DigestMismatch"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    WEIGHTS_UNUSABLE = "WeightsUnusable"
    PULL_FAILED = "PullFailed"
    CACHE_FULL = "CacheFull"
    CACHE_PENDING = "CachePending"
    PACKING = "Packing"
    MODEL_PACKED = "ModelPacked"
    MODEL_NOT_SUPPORTED = "ModelNotSupported"


@dataclass(frozen=True)
class Refusal:
    """Why a spec cannot be served, as the user will read it."""

    reason: Reason
    message: str
    remedy: str = ""
    """The part of the message that says what to do instead; empty = what EXPLANATIONS says."""
