"""What a status can say: the meaning of each condition, and of each reason the cause and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from flash_api.reasons import ConditionType, Reason, Refusal

__all__ = ["EXPLANATIONS", "MEANINGS", "REASONS", "ConditionType", "Explanation", "Reason", "Refusal"]


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
_NEXT_REVISION = "Mend the spec, or put the former one back: flash status NAME says what was measured."

EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.SERVING: Explanation("A real request through the endpoint was answered.", "Nothing to do."),
    Reason.IN_PROGRESS: Explanation("The operator works towards the spec.", _WAIT),
    Reason.SETTLED: Explanation("What exists is what the spec asks for.", "Nothing to do."),
    Reason.PROGRESSING: Explanation("Progress goes on without anyone's help.", "Nothing to do."),
    Reason.APPLY_FAILED: Explanation(
        "The cluster refused an object that the plan needs, or could not be reached.",
        "Read the message: free a taken name, raise a quota, or mend the operator's permissions; it is tried again.",
    ),
    Reason.READ_FAILED: Explanation(
        "The operator may not read the objects that it made, so their state is not known.",
        "Grant the operator what the message names (files/rules.yaml of the chart lists all that it needs).",
    ),
    Reason.SPEC_ACCEPTED: Explanation("The spec is valid and this release can serve it.", "Nothing to do."),
    Reason.INVALID_SPEC: Explanation(
        "The stored spec breaks a rule; it was stored before the rule existed or the schema is out of date.",
        "Apply a corrected manifest (flash lint -f FILE lists the rules) and update the CRD (flash crds).",
    ),
    Reason.SOURCE_NOT_SERVED: Explanation(
        "What comes from the model source could be read or changed on the way.",
        "Use https://, for a bucket an https:// endpoint; or name one file and write its SHA-256.",
    ),
    Reason.FIELD_NOT_SERVED: Explanation(
        "The field is part of the API, but this release does nothing with it, and says so rather than ignore it.",
        "Do what the message says instead, or remove the field.",
    ),
    Reason.MODEL_OUTSIDE_REGION: Explanation(
        "The deployment's residency allows fewer regions than that of the FlashModel it names, whose volume may be "
        "outside.",
        "Make a FlashModel with residency in regions of the deployment, and name it.",
    ),
    Reason.DRAFT_SHARES_TOKENIZER: Explanation(
        "Does not hold: the draft model has another tokenizer than the model, so its tokens mean something else. The "
        "message gives the SHA-256 of both.",
        "Choose a draft model of the same family in spec.draft.model, or another spec.draft.mode. What runs goes on "
        "without proposals.",
    ),
    Reason.MODEL_LOADED: Explanation("At least one engine pod holds the model.", "Nothing to do."),
    Reason.MODEL_LOADING: Explanation("No engine pod has finished pulling and loading the model.", _LOGS),
    Reason.MODEL_NOT_FOUND: Explanation(
        "spec.model.modelRef names a FlashModel that this namespace does not have.",
        "Create the FlashModel, or correct the name: kubectl get fm.",
    ),
    Reason.MODEL_NOT_CACHED: Explanation(
        "The FlashModel is not downloaded and packed yet.", "Wait, or see why: kubectl describe fm NAME."
    ),
    Reason.VARIANT_NOT_PACKED: Explanation(
        "The FlashModel does not pack the variant that the deployment asks for.",
        "Add the variant to spec.variants of the FlashModel, or choose one that is there.",
    ),
    Reason.ALL_ENGINES_READY: Explanation("Every wanted engine pod is ready and up to date.", "Nothing to do."),
    Reason.ENGINES_MISSING: Explanation("The engine Deployment does not exist yet.", _WAIT),
    Reason.ENGINES_STARTING: Explanation("Engine pods start: scheduling, image, weights, warm-up.", _LOGS),
    Reason.ENGINES_UPDATING: Explanation("Engine pods of the former spec are being replaced.", _WAIT),
    Reason.ENGINES_FAILING: Explanation("Engine pods cannot be made or keep failing.", _MENDED),
    Reason.ENGINES_STUCK: Explanation("Engine pods made no progress within the deadline.", _LOGS),
    Reason.SCALED_TO_ZERO: Explanation(
        "spec.engine.replicas is 0, so nothing can answer.", "Set spec.engine.replicas to 1 or more."
    ),
    Reason.SUSPENDED: Explanation("spec.suspend is true, so no pod runs.", "Set spec.suspend to false."),
    Reason.ROLLOUT_PAUSED: Explanation(
        "spec.rollout.paused is true: pods of both revisions may run.", "Set spec.rollout.paused to false."
    ),
    Reason.CANARY_RUNNING: Explanation(
        "A new revision answers a share of the requests and has not proved itself yet.", _WAIT
    ),
    Reason.CANARY_PROVED: Explanation(
        "The new revision answered enough requests, as well and as fast as the former one, and gets all of them.", _WAIT
    ),
    Reason.CANARY_FAILING: Explanation(
        "Pods of the new revision could not start or kept failing, so the former one serves alone.", _NEXT_REVISION
    ),
    Reason.CANARY_ERRORS: Explanation(
        "The new revision failed more requests than the former one does, by more than chance explains, so the former "
        "one serves alone.",
        _NEXT_REVISION,
    ),
    Reason.CANARY_SLOWER: Explanation(
        "The new revision was slower than spec.rollout.canaryLatencyPercent allows, so the former one serves alone.",
        f"{_NEXT_REVISION} Where it may be that slow, raise spec.rollout.canaryLatencyPercent first.",
    ),
    Reason.CANARY_INCONCLUSIVE: Explanation(
        "The new revision had too few requests within spec.rollout.progressDeadlineSeconds to prove itself, so the "
        "former one serves alone.",
        "Lower canaryRequests, raise canaryPercent or progressDeadlineSeconds, or use RollingUpdate; each is followed "
        "by another try once the engine's part of the spec is changed, or taken back and applied again.",
    ),
    Reason.DRAFTS_READY: Explanation("Every wanted draft pod is ready and up to date.", "Nothing to do."),
    Reason.DRAFTS_MISSING: Explanation("The draft Deployment does not exist yet.", _WAIT),
    Reason.DRAFTS_STARTING: Explanation(
        "Draft pods start, or wait for room near an engine pod; answers are the same and slower until then.",
        "Wait. Where the message says that a pod has no node: make room beside the engines, lower "
        "spec.draft.resources, or allow more distance by spec.draft.placement.",
    ),
    Reason.DRAFTS_UPDATING: Explanation("Draft pods of the former spec are being replaced.", _WAIT),
    Reason.DRAFTS_FAILING: Explanation("Draft pods cannot be made or keep failing.", _MENDED),
    Reason.DRAFTS_STUCK: Explanation("Draft pods made no progress within the deadline.", _LOGS),
    Reason.BELOW_BREAK_EVEN: Explanation(
        "Proposals cost more than they bring now, so they are not used; engines try again by themselves.",
        "Nothing to do where it is so under load only: full batches leave no room to verify. Otherwise choose a draft "
        "model nearer to the model, or another spec.draft.mode.",
    ),
    Reason.TOKENIZER_DIFFERS: Explanation(
        "The draft model has another tokenizer than the model, so its tokens mean something else.",
        "Choose a draft model of the same family.",
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
    Reason.ROUTE_NOT_ACCEPTED: Explanation(
        "The Gateway or the ingress controller did not take the route.",
        "Read its message: the listener must allow this namespace and hostname.",
    ),
    Reason.KIND_NOT_SERVED: Explanation(
        "The spec asks for an object of a kind that this cluster does not know, such as HTTPRoute or Certificate.",
        "Install what brings the kind, or choose another way in spec.endpoint.",
    ),
    Reason.LOAD_BALANCER_PENDING: Explanation(
        "Gateway pods answer, but the load balancer before them has no address yet.",
        "Wait a minute or two, then see why: kubectl describe service NAME-gateway. A cluster without a controller for "
        "load balancers never gives one: install it (MetalLB, the cloud's own), or name a Gateway or an Ingress class.",
    ),
    Reason.CERTIFICATE_PENDING: Explanation(
        "cert-manager has not issued the certificate that the gateway pods wait for.",
        "Wait, or see why: kubectl describe certificate NAME-gateway; the issuer may not exist or may refuse the name.",
    ),
    Reason.ALL_IN_REGION: Explanation("Every pod, cache and volume is in an allowed region.", "Nothing to do."),
    Reason.REGION_UNKNOWN: Explanation(
        "Pods have no node yet, or their nodes have no label topology.kubernetes.io/region.",
        "Wait until the pods have nodes; label nodes that have no region.",
    ),
    Reason.REGION_UNAVAILABLE: Explanation(
        "No node is in an allowed region, so nothing can start.",
        "Add a node in one of spec.residency.regions, or make another deployment for a region that has nodes.",
    ),
    Reason.OUTSIDE_REGION: Explanation(
        "Something is outside the allowed regions; the message names it. With mode Enforce it is being stopped.",
        "Move it, or correct the region label of its node.",
    ),
    Reason.POLICY_ENFORCED: Explanation("The operator was told that policies are enforced.", "Nothing to do."),
    Reason.POLICY_NOT_ENFORCED: Explanation(
        "This cluster's network ignores NetworkPolicy: who knows an address may connect, whatever the spec says.",
        "Use a network that enforces it, and set cluster.enforcesNetworkPolicies=true; or ask for keys (gateway.auth).",
    ),
    Reason.WITHIN_TARGETS: Explanation("Every target is met and the number of engine pods stays.", "Nothing to do."),
    Reason.TTFT_ABOVE_TARGET: Explanation("First tokens come later than the target, so pods are added.", _WAIT),
    Reason.TPOT_ABOVE_TARGET: Explanation("Further tokens come slower than the target, so pods are added.", _WAIT),
    Reason.QUEUE_ABOVE_TARGET: Explanation("More requests wait than the target allows, so pods are added.", _WAIT),
    Reason.LOAD_BELOW_TARGETS: Explanation("Fewer engine pods meet every target, so pods are removed.", _WAIT),
    Reason.PODS_ARE_STARTING: Explanation(
        "Targets are missed, and the pods that were asked for already get their chance first.", _WAIT
    ),
    Reason.STABILIZING: Explanation(
        "Fewer pods would do, but not yet for spec.engine.autoscaling.scaleDownStabilizationSeconds.", _WAIT
    ),
    Reason.AT_MAXIMUM: Explanation(
        "More pods are wanted than maxReplicas allows.",
        "Raise spec.engine.autoscaling.maxReplicas, give pods more CPU, or relax the targets.",
    ),
    Reason.AT_MINIMUM: Explanation("Fewer pods would do than minReplicas asks for.", "Nothing to do."),
    Reason.SCHEDULE_HOLDS: Explanation("The bounds of a schedule hold now.", "Nothing to do."),
    Reason.METRICS_MISSING: Explanation(
        "The gateways' metrics could not be read, so the number of engine pods stays.",
        "Check that the operator may reach the gateway pods (NetworkPolicy), then the gateways' logs.",
    ),
    Reason.PROVIDER_MISSING: Explanation(
        "spec.engine.autoscaling.provider names KEDA, which this cluster does not have, so the number of engine pods "
        "stays.",
        "Install KEDA and set keda.enabled of the chart, or use the provider BuiltIn.",
    ),
    Reason.PROVIDER_PENDING: Explanation(
        "The HorizontalPodAutoscaler or ScaledObject has not been looked at by its controller yet.", _WAIT
    ),
    Reason.PROVIDER_FAILING: Explanation(
        "The HorizontalPodAutoscaler or ScaledObject says that it cannot scale, so the number of engine pods stays. "
        "Mostly nothing serves it the number: the APIService v1beta1.external.metrics.k8s.io is missing or another "
        "adapter's, or KEDA may not read FlashDeployments.",
        "Set externalMetrics.enabled of the chart (HorizontalPodAutoscaler) or keda.enabled (KEDA), or use the "
        "provider BuiltIn. Only one external metrics API can exist in a cluster: where KEDA is, use KEDA.",
    ),
    Reason.DOWNLOADING: Explanation("The weights are being downloaded; an interrupted download goes on.", _WAIT),
    Reason.VERIFIED: Explanation("The weights are complete and have the expected digest.", "Nothing to do."),
    Reason.DIGEST_MISMATCH: Explanation(
        "The downloaded weights are not the ones that spec.sha256 names, so they are not used.",
        "Correct the digest, or find out who changed the file.",
    ),
    Reason.SOURCE_UNREACHABLE: Explanation(
        "The source did not answer, or has no such model; it is tried again.",
        "Check the URI and revision, and that pods of this namespace may reach the source.",
    ),
    Reason.CREDENTIALS_REFUSED: Explanation(
        "The source refused the token, or wants one.",
        "Put a valid token into the Secret that credentialsSecretRef names, and accept the model's licence there.",
    ),
    Reason.WEIGHTS_UNUSABLE: Explanation(
        "The source has no such model, or its files are damaged or incomplete; the message says which.",
        "Correct the source, then delete the Job to try again: kubectl delete job -l flashplane.dev/model=NAME.",
    ),
    Reason.PULL_FAILED: Explanation(
        "The pull ended for another reason; lastFailure has container, exit code and last line. It is tried again.",
        "Code 137 = not enough memory: raise spec.resources.memory. Otherwise read the log: "
        "kubectl logs -l flashplane.dev/model=NAME.",
    ),
    Reason.CACHE_FULL: Explanation(
        "The volume has no room for the weights and the packed variants.", "Raise spec.cache.size of the FlashModel."
    ),
    Reason.CACHE_PENDING: Explanation(
        "The volume does not exist yet.", "See why: kubectl describe pvc; the StorageClass may not exist."
    ),
    Reason.PACKING: Explanation("The weights are being packed for the variants.", _WAIT),
    Reason.MODEL_PACKED: Explanation("Every variant is packed and ready for use.", "Nothing to do."),
    Reason.MODEL_NOT_SUPPORTED: Explanation(
        "The engine does not know this architecture, or the model cannot be packed in this variant.",
        "Choose a model or variant that is supported; the message names what is missing.",
    ),
}

_PROGRESS = (Reason.IN_PROGRESS, Reason.SETTLED, Reason.PROGRESSING, Reason.APPLY_FAILED, Reason.READ_FAILED)
_REFUSED = (
    Reason.INVALID_SPEC,
    Reason.SOURCE_NOT_SERVED,
    Reason.FIELD_NOT_SERVED,
    Reason.MODEL_OUTSIDE_REGION,
    Reason.DRAFT_SHARES_TOKENIZER,
)

REASONS: dict[ConditionType, tuple[Reason, ...]] = {
    ConditionType.READY: (Reason.SERVING, Reason.APPLY_FAILED, Reason.READ_FAILED),
    ConditionType.RECONCILING: _PROGRESS,
    ConditionType.STALLED: _PROGRESS,
    ConditionType.ACCEPTED: (Reason.SPEC_ACCEPTED, *_REFUSED),
    ConditionType.MODEL_READY: (
        Reason.READ_FAILED,
        Reason.MODEL_LOADED,
        Reason.MODEL_LOADING,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_NOT_CACHED,
        Reason.VARIANT_NOT_PACKED,
    ),
    ConditionType.ENGINES_READY: (
        Reason.READ_FAILED,
        Reason.ALL_ENGINES_READY,
        Reason.ENGINES_MISSING,
        Reason.ENGINES_STARTING,
        Reason.ENGINES_UPDATING,
        Reason.ENGINES_FAILING,
        Reason.ENGINES_STUCK,
        Reason.SCALED_TO_ZERO,
        Reason.SUSPENDED,
        Reason.ROLLOUT_PAUSED,
        Reason.CANARY_RUNNING,
        Reason.CANARY_PROVED,
        Reason.CANARY_FAILING,
        Reason.CANARY_ERRORS,
        Reason.CANARY_SLOWER,
        Reason.CANARY_INCONCLUSIVE,
        Reason.NOT_APPLIED,
    ),
    ConditionType.DRAFT_READY: (
        Reason.DRAFTS_READY,
        Reason.DRAFTS_MISSING,
        Reason.DRAFTS_STARTING,
        Reason.DRAFTS_UPDATING,
        Reason.DRAFTS_FAILING,
        Reason.DRAFTS_STUCK,
        Reason.BELOW_BREAK_EVEN,
        Reason.TOKENIZER_DIFFERS,
        Reason.READ_FAILED,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_NOT_CACHED,
        Reason.VARIANT_NOT_PACKED,
        Reason.SCALED_TO_ZERO,
        Reason.SUSPENDED,
        Reason.NOT_APPLIED,
    ),
    ConditionType.ENDPOINT_READY: (
        Reason.READ_FAILED,
        Reason.ENDPOINT_ANSWERS,
        Reason.GATEWAY_MISSING,
        Reason.GATEWAY_STARTING,
        Reason.GATEWAY_UPDATING,
        Reason.GATEWAY_FAILING,
        Reason.GATEWAY_STUCK,
        Reason.ENDPOINT_SILENT,
        Reason.WAITING_FOR_ENGINES,
        Reason.ROUTE_NOT_ACCEPTED,
        Reason.KIND_NOT_SERVED,
        Reason.LOAD_BALANCER_PENDING,
        Reason.CERTIFICATE_PENDING,
        Reason.SUSPENDED,
        Reason.NOT_APPLIED,
    ),
    ConditionType.RESIDENCY_COMPLIANT: (
        Reason.ALL_IN_REGION,
        Reason.REGION_UNKNOWN,
        Reason.REGION_UNAVAILABLE,
        Reason.OUTSIDE_REGION,
    ),
    ConditionType.NETWORK_ISOLATED: (Reason.POLICY_ENFORCED, Reason.POLICY_NOT_ENFORCED),
    ConditionType.SCALING_ACTIVE: (
        Reason.WITHIN_TARGETS,
        Reason.TTFT_ABOVE_TARGET,
        Reason.TPOT_ABOVE_TARGET,
        Reason.QUEUE_ABOVE_TARGET,
        Reason.LOAD_BELOW_TARGETS,
        Reason.PODS_ARE_STARTING,
        Reason.STABILIZING,
        Reason.AT_MAXIMUM,
        Reason.AT_MINIMUM,
        Reason.SCHEDULE_HOLDS,
        Reason.METRICS_MISSING,
        Reason.PROVIDER_MISSING,
        Reason.PROVIDER_PENDING,
        Reason.PROVIDER_FAILING,
    ),
    ConditionType.DOWNLOADED: (
        Reason.DOWNLOADING,
        Reason.VERIFIED,
        Reason.DIGEST_MISMATCH,
        Reason.SOURCE_UNREACHABLE,
        Reason.CREDENTIALS_REFUSED,
        Reason.WEIGHTS_UNUSABLE,
        Reason.PULL_FAILED,
        Reason.CACHE_FULL,
        Reason.CACHE_PENDING,
        Reason.READ_FAILED,
        Reason.NOT_APPLIED,
    ),
    ConditionType.PACKED: (
        Reason.MODEL_PACKED,
        Reason.PACKING,
        Reason.MODEL_NOT_SUPPORTED,
        Reason.READ_FAILED,
        Reason.NOT_APPLIED,
    ),
}
"""Of each condition its own reasons; Ready, Reconciling and Stalled also repeat the one of the detail that fails."""

MEANINGS: dict[ConditionType, str] = {
    ConditionType.READY: "The endpoint answers: a real one-token request through it succeeded. Of a FlashModel: "
    "deployments can use it. False or Unknown with the reason of the first detail that fails.",
    ConditionType.RECONCILING: "Abnormal when true: work is under way towards the spec.",
    ConditionType.STALLED: "Abnormal when true: no progress until someone acts.",
    ConditionType.ACCEPTED: "The spec is valid and this release does what it says.",
    ConditionType.MODEL_READY: "The weights are there, verified and loaded.",
    ConditionType.ENGINES_READY: "Enough engine pods work.",
    ConditionType.DRAFT_READY: "Draft pods work. Without them answers are the same and slower, so neither Ready nor "
    "Stalled depends on it; there is one where spec.draft.mode is Pods.",
    ConditionType.ENDPOINT_READY: "Requests through the endpoint are answered.",
    ConditionType.RESIDENCY_COMPLIANT: "Every pod, cache and volume is in an allowed region.",
    ConditionType.NETWORK_ISOLATED: "NetworkPolicies are enforced, so only those whom the spec lets in reach it. "
    "There is one where the operator was told, as no API tells it; neither Ready nor Stalled depends on it.",
    ConditionType.SCALING_ACTIVE: "The number of engine pods follows the load. The reason says what was decided last.",
    ConditionType.DOWNLOADED: "The weights of a FlashModel are in its cache and have the expected digest.",
    ConditionType.PACKED: "Every variant of a FlashModel is packed.",
}
