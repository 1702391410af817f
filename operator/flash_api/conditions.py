"""What a status can say: the condition types, and the closed list of reasons with the cause and the remedy of each.

Reasons are API: scripts wait for them and the documentation explains each, so one is added but never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """The facts a status states, in the order in which it lists them."""

    READY = "Ready"
    """The endpoint answers. Carries the cause of the first detail that fails."""
    RECONCILING = "Reconciling"
    """Abnormal when true: work is under way towards the spec."""
    STALLED = "Stalled"
    """Abnormal when true: no progress until someone acts."""
    ACCEPTED = "Accepted"
    MODEL_READY = "ModelReady"
    ENGINES_READY = "EnginesReady"
    ENDPOINT_READY = "EndpointReady"


class Reason(StrEnum):
    """Why a condition has its status."""

    # Ready, Reconciling, Stalled
    SERVING = "Serving"
    IN_PROGRESS = "InProgress"
    SETTLED = "Settled"
    PROGRESSING = "Progressing"
    APPLY_FAILED = "ApplyFailed"
    # Accepted
    SPEC_ACCEPTED = "SpecAccepted"
    INVALID_SPEC = "InvalidSpec"
    SOURCE_NOT_SERVED = "SourceNotServed"
    VISIBILITY_NOT_SERVED = "VisibilityNotServed"
    # ModelReady
    MODEL_LOADED = "ModelLoaded"
    MODEL_LOADING = "ModelLoading"
    # EnginesReady
    ALL_ENGINES_READY = "AllEnginesReady"
    ENGINES_MISSING = "EnginesMissing"
    ENGINES_STARTING = "EnginesStarting"
    ENGINES_UPDATING = "EnginesUpdating"
    ENGINES_FAILING = "EnginesFailing"
    ENGINES_STUCK = "EnginesStuck"
    SCALED_TO_ZERO = "ScaledToZero"
    # EndpointReady
    ENDPOINT_ANSWERS = "EndpointAnswers"
    GATEWAY_MISSING = "GatewayMissing"
    GATEWAY_STARTING = "GatewayStarting"
    GATEWAY_UPDATING = "GatewayUpdating"
    GATEWAY_FAILING = "GatewayFailing"
    GATEWAY_STUCK = "GatewayStuck"
    ENDPOINT_SILENT = "EndpointSilent"
    WAITING_FOR_ENGINES = "WaitingForEngines"
    NOT_APPLIED = "NotApplied"


@dataclass(frozen=True)
class Refusal:
    """Why a spec cannot be served, as the user will read it."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Explanation:
    """What a reason means to the person who reads it."""

    cause: str
    remedy: str


_LOGS = (
    "Read the logs: flash logs NAME on this machine, "
    "kubectl logs -l flashplane.dev/deployment=NAME --all-containers on a cluster."
)
_MENDED = f"Mend what the message names. {_LOGS}"
_WAIT = "Nothing to do: this ends by itself."

EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.SERVING: Explanation("A real request through the endpoint was answered.", "Nothing to do."),
    Reason.IN_PROGRESS: Explanation("The operator works towards the spec.", _WAIT),
    Reason.SETTLED: Explanation("What exists is what the spec asks for.", "Nothing to do."),
    Reason.PROGRESSING: Explanation("Progress goes on without anyone's help.", "Nothing to do."),
    Reason.APPLY_FAILED: Explanation(
        "The cluster refused an object that the plan needs, or could not be reached.",
        "Read the message: free a taken name, raise a quota, or mend the operator's permissions; it is tried again.",
    ),
    Reason.SPEC_ACCEPTED: Explanation("The spec is valid and this release can serve it.", "Nothing to do."),
    Reason.INVALID_SPEC: Explanation(
        "The stored spec breaks a rule; it was stored before the rule existed or the schema is out of date.",
        "Apply a corrected manifest (flash lint -f FILE lists the rules) and update the CRD (flash crds).",
    ),
    Reason.SOURCE_NOT_SERVED: Explanation(
        "The model source's scheme is part of the API, but this release cannot read from it.",
        "Use builtin://NAME, or file:///PATH with weights that are inside the engine container.",
    ),
    Reason.VISIBILITY_NOT_SERVED: Explanation(
        "A public endpoint needs TLS, which this release does not set up.",
        "Use Cluster or Private, and publish the gateway Service through your own ingress with TLS.",
    ),
    Reason.MODEL_LOADED: Explanation("At least one engine pod holds the model.", "Nothing to do."),
    Reason.MODEL_LOADING: Explanation("No engine pod has finished pulling and loading the model.", _LOGS),
    Reason.ALL_ENGINES_READY: Explanation("Every wanted engine pod is ready and up to date.", "Nothing to do."),
    Reason.ENGINES_MISSING: Explanation("The engine Deployment does not exist yet.", _WAIT),
    Reason.ENGINES_STARTING: Explanation("Engine pods start: scheduling, image, weights, warm-up.", _LOGS),
    Reason.ENGINES_UPDATING: Explanation("Engine pods of the former spec are being replaced.", _WAIT),
    Reason.ENGINES_FAILING: Explanation("Engine pods cannot be made or keep failing.", _MENDED),
    Reason.ENGINES_STUCK: Explanation("Engine pods made no progress within the deadline.", _LOGS),
    Reason.SCALED_TO_ZERO: Explanation(
        "spec.engine.replicas is 0, so nothing can answer.", "Set spec.engine.replicas to 1 or more."
    ),
    Reason.ENDPOINT_ANSWERS: Explanation(
        "A real one-token request through the endpoint was answered.", "Nothing to do."
    ),
    Reason.GATEWAY_MISSING: Explanation("The gateway Deployment does not exist yet.", _WAIT),
    Reason.GATEWAY_STARTING: Explanation("Gateway pods start.", _LOGS),
    Reason.GATEWAY_UPDATING: Explanation("Gateway pods of the former spec are being replaced.", _WAIT),
    Reason.GATEWAY_FAILING: Explanation("Gateway pods cannot be made or keep failing.", _MENDED),
    Reason.GATEWAY_STUCK: Explanation("Gateway pods made no progress within the deadline.", _LOGS),
    Reason.ENDPOINT_SILENT: Explanation(
        "Gateway pods are ready, but a request through the endpoint did not succeed.",
        "Check that the operator may reach the gateway Service (NetworkPolicy), then the gateway's logs.",
    ),
    Reason.WAITING_FOR_ENGINES: Explanation("The gateway has no engine to ask.", "See the condition EnginesReady."),
    Reason.NOT_APPLIED: Explanation(
        "The spec was refused, so nothing was made from it.", "See the condition Accepted."
    ),
}
