"""Manifests that must be refused and manifests that must be accepted, by `flash lint` and by the API server alike."""

from dataclasses import dataclass
from typing import Any

from builders import a_manifest, a_model_manifest

MODEL = {"source": "builtin://smollm2-135m-instruct"}
DIGEST = "ab" * 32


@dataclass(frozen=True)
class Invalid:
    """A manifest, and what its author must be told."""

    name: str
    manifest: dict[str, Any]
    field: str
    says: str
    """Part of the message of `flash lint`."""


def spec(name: str, field: str, says: str, **fields: Any) -> Invalid:
    return Invalid(name, a_manifest(**fields), f"spec.{field}", says)


def renamed(name: str, says: str) -> Invalid:
    return Invalid(f"name {name[:20]}", a_manifest(name), "metadata.name", says)


def model(**fields: Any) -> dict[str, Any]:
    return {"model": {**MODEL, **fields}}


def source(uri: str, **fields: Any) -> dict[str, Any]:
    return {"model": {"source": uri, **fields}}


def scaled(**fields: Any) -> dict[str, Any]:
    return {"engine": {"autoscaling": {"maxReplicas": 4, **fields}}}


def scheduled(**fields: Any) -> dict[str, Any]:
    schedule = {"name": "office", "start": "08:00", "end": "18:00", "minReplicas": 2, **fields}
    return scaled(schedules=[{key: value for key, value in schedule.items() if value is not None}])


def draft(**fields: Any) -> dict[str, Any]:
    return {"draft": {"model": MODEL, **fields}}


def endpoint(**fields: Any) -> dict[str, Any]:
    return {"endpoint": fields}


def public(**fields: Any) -> dict[str, Any]:
    """A Public endpoint that breaks no rule, unless a field says so; None removes one."""
    door = {"visibility": "Public", "tls": {"secretName": "tls"}, **fields}
    return {
        "endpoint": {key: value for key, value in door.items() if value is not None},
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "keys"}}},
    }


def oidc(**fields: Any) -> dict[str, Any]:
    return {"gateway": {"auth": {"oidc": {"issuerURL": "https://login.example.com", "audiences": ["chat"], **fields}}}}


def placed(**fields: Any) -> dict[str, Any]:
    return {"placement": fields}


def observed(**fields: Any) -> dict[str, Any]:
    return {"observability": fields}


def cached(name: str, field: str, says: str, **fields: Any) -> Invalid:
    return Invalid(f"FlashModel: {name}", a_model_manifest(**fields), f"spec.{field}", says)


BY_SCHEMA = [
    Invalid("no model", {**a_manifest(), "spec": {}}, "spec.model", "is required"),
    spec("unknown scheme", "model.source", "with the scheme builtin", **source("ftp://models/a")),
    spec("source without scheme", "model.source", "with the scheme builtin", **source("olmoe")),
    spec("source with a space", "model.source", "without spaces", **source("file:///a b")),
    spec("endless source", "model.source", "at most 1024 characters", **source("hf://" + "a" * 1024)),
    spec("variant in lower case", "variant", "did you mean Lite?", variant="lite"),
    spec("unknown variant", "variant", "must be one of Cloud, Lite, Nano", variant="Huge"),
    spec("negative replicas", "engine.replicas", "greater than or equal to 0", engine={"replicas": -1}),
    spec("too many replicas", "engine.replicas", "less than or equal to 1000", engine={"replicas": 1001}),
    spec("replicas as text", "engine.replicas", "must be an integer", engine={"replicas": "2"}),
    spec("replicas as a fraction", "engine.replicas", "must be an integer", engine={"replicas": 1.5}),
    spec("replicas as a truth", "engine.replicas", "must be an integer", engine={"replicas": True}),
    spec("no gateway at all", "gateway.replicas", "greater than or equal to 1", gateway={"replicas": 0}),
    spec("port zero", "endpoint.port", "greater than or equal to 1", endpoint={"port": 0}),
    spec("port too high", "endpoint.port", "less than or equal to 65535", endpoint={"port": 65536}),
    spec("unknown visibility", "endpoint.visibility", "must be one of Private", endpoint={"visibility": "Secret"}),
    spec(
        "unknown cache dtype",
        "engine.kvCache.dtype",
        "must be one of bfloat16, int8",
        engine={"kvCache": {"dtype": "fp8"}},
    ),
    spec("cpu as a number", "engine.resources.cpu", "must be a string", engine={"resources": {"cpu": 2}}),
    spec("memory in GB", "engine.resources.memory", "Kubernetes quantity", engine={"resources": {"memory": "2GB"}}),
    spec("digest too short", "model.sha256", "64 hexadecimal digits", **model(sha256="abc")),
    spec("no experts", "model.activeExperts", "greater than or equal to 1", **model(activeExperts=0)),
    spec("no context", "model.maxContextTokens", "greater than or equal to 16", **model(maxContextTokens=1)),
    spec("engine as text", "engine", "must be a mapping", engine="big"),
    spec(
        "secret without a name",
        "gateway.auth.apiKeysSecretRef.name",
        "is required",
        gateway={"auth": {"apiKeysSecretRef": {"key": "k"}}},
    ),
    spec(
        "secret with an impossible name",
        "gateway.auth.apiKeysSecretRef.name",
        "must be a Kubernetes name",
        gateway={"auth": {"apiKeysSecretRef": {"name": "Keys!"}}},
    ),
    spec("body without room", "gateway.limits.maxBodyBytes", "1024", gateway={"limits": {"maxBodyBytes": 1}}),
    spec("revision with a space", "model.revision", "without spaces", **source("hf://a/b", revision="my branch")),
    spec("FlashModel without a name", "model.modelRef.name", "is required", model={"modelRef": {}}),
    spec("unknown draft mode", "draft.mode", "must be one of Pods", draft={"mode": "Magic"}),
    spec("no lookahead", "draft.lookahead", "greater than or equal to 1", **draft(lookahead=0)),
    spec("endless lookahead", "draft.lookahead", "less than or equal to 8", **draft(lookahead=9)),
    spec("no draft pod", "draft.replicas", "greater than or equal to 1", **draft(replicas=0)),
    spec("draft on the moon", "draft.placement", "must be one of SameNode", **draft(placement="SameMoon")),
    spec("scaling without an end", "engine.autoscaling.maxReplicas", "is required", engine={"autoscaling": {}}),
    spec("scaling below one", "engine.autoscaling.minReplicas", "equal to 1", **scaled(minReplicas=0)),
    spec("scaling by magic", "engine.autoscaling.provider", "must be one of BuiltIn", **scaled(provider="Magic")),
    spec(
        "impossible speed",
        "engine.autoscaling.targets.ttftMilliseconds",
        "equal to 1",
        **scaled(targets={"ttftMilliseconds": 0}),
    ),
    spec(
        "speed as text",
        "engine.autoscaling.targets.tpotMilliseconds",
        "must be an integer",
        **scaled(targets={"tpotMilliseconds": "40ms"}),
    ),
    spec(
        "zero at once",
        "engine.autoscaling.scaleToZeroAfterSeconds",
        "equal to 60",
        **scaled(scaleToZeroAfterSeconds=1),
    ),
    spec("no schedules", "engine.autoscaling.schedules", "at least 1", **scaled(schedules=[])),
    spec("unnamed schedule", "engine.autoscaling.schedules[0].name", "is required", **scheduled(name=None)),
    spec("hour 25", "engine.autoscaling.schedules[0].start", "00:00 to 23:59", **scheduled(start="25:00")),
    spec("time in words", "engine.autoscaling.schedules[0].end", "5 characters", **scheduled(end="noon")),
    spec("day in German", "engine.autoscaling.schedules[0].days[0]", "Monday", **scheduled(days=["Montag"])),
    spec("a day twice", "engine.autoscaling.schedules[0].days", "once", **scheduled(days=["Monday", "Monday"])),
    spec("zone in lower case", "engine.autoscaling.schedules[0].timeZone", "IANA", **scheduled(timeZone="europe")),
    spec("zone on Mars", "engine.autoscaling.schedules[0].timeZone", "IANA", **scheduled(timeZone="Mars/Olympus")),
    spec("zone of the machine", "engine.autoscaling.schedules[0].timeZone", "IANA", **scheduled(timeZone="Local")),
    spec(
        "two schedules of one name",
        "engine.autoscaling.schedules",
        "each name once",
        **scaled(schedules=[{"name": "a", "start": "08:00", "end": "09:00", "minReplicas": 1}] * 2),
    ),
    spec(
        "provider in plain text", "gateway.auth.oidc.issuerURL", "https://", **oidc(issuerURL="http://login.acme.com")
    ),
    spec("tokens for anyone", "gateway.auth.oidc.audiences", "at least 1", **oidc(audiences=[])),
    spec("claim with a space", "gateway.auth.oidc.usernameClaim", "name of a claim", **oidc(usernameClaim="full name")),
    spec("address without a block", "endpoint.allowedCIDRs[0]", "block of IP", **public(allowedCIDRs=["10.0.0.1"])),
    spec("block too large", "endpoint.allowedCIDRs[0]", "block of IP", **public(allowedCIDRs=["10.0.0.0/33"])),
    spec("hostname without a dot", "endpoint.hostname", "with a dot", **public(hostname="localhost")),
    spec("hostname with a star", "endpoint.hostname", "without *", **public(hostname="*.example.com")),
    spec("namespace that is none", "endpoint.allowedNamespaces[0]", "name", **endpoint(allowedNamespaces=["Team_A"])),
    spec("a namespace twice", "endpoint.allowedNamespaces", "once", **endpoint(allowedNamespaces=["a", "a"])),
    spec(
        "issuer of no kind",
        "endpoint.tls.issuerRef.kind",
        "must be one of Issuer",
        **public(hostname="a.example.com", tls={"issuerRef": {"name": "acme", "kind": "Acme"}}),
    ),
    spec("no regions", "residency.regions", "is required", residency={}),
    spec("empty regions", "residency.regions", "at least 1", residency={"regions": []}),
    spec("a region twice", "residency.regions", "once", residency={"regions": ["eu", "eu"]}),
    spec("region with a space", "residency.regions[0]", "label's value", residency={"regions": ["eu west"]}),
    spec("promise half kept", "residency.mode", "must be one of Enforce", residency={"regions": ["a"], "mode": "Try"}),
    spec("two more pods", "rollout.surge", "less than or equal to 1", rollout={"surge": 2}),
    spec("unknown strategy", "rollout.strategy", "must be one of RollingUpdate", rollout={"strategy": "BlueGreen"}),
    spec("canary of all", "rollout.canaryPercent", "equal to 50", rollout={"strategy": "Canary", "canaryPercent": 90}),
    spec(
        "canary of a few requests",
        "rollout.canaryRequests",
        "equal to 10",
        rollout={"strategy": "Canary", "canaryPercent": 10, "canaryRequests": 3},
    ),
    spec(
        "canary that must be faster",
        "rollout.canaryLatencyPercent",
        "equal to 100",
        rollout={"strategy": "Canary", "canaryPercent": 10, "canaryLatencyPercent": 90},
    ),
    spec("impatient rollout", "rollout.progressDeadlineSeconds", "60", rollout={"progressDeadlineSeconds": 5}),
    spec("paused by a word", "rollout.paused", "must be a boolean", rollout={"paused": "yes"}),
    spec("label with a space", "placement.nodeSelector[gpu]", "letters", **placed(nodeSelector={"gpu": "h 100"})),
    spec("nobody's nodes", "placement.nodeSelector", "at least 1", **placed(nodeSelector={})),
    spec(
        "unknown effect", "placement.tolerations[0].effect", "NoSchedule", **placed(tolerations=[{"effect": "Never"}])
    ),
    spec("priority that is none", "placement.priorityClassName", "name", **placed(priorityClassName="Very High")),
    spec("spread over nothing", "placement.topologySpread[0].topologyKey", "required", **placed(topologySpread=[{}])),
    spec(
        "no skew at all",
        "placement.topologySpread[0].maxSkew",
        "equal to 1",
        **placed(topologySpread=[{"topologyKey": "zone", "maxSkew": 0}]),
    ),
    spec(
        "spread twice",
        "placement.topologySpread",
        "each topologyKey",
        **placed(topologySpread=[{"topologyKey": "zone"}, {"topologyKey": "zone", "maxSkew": 2}]),
    ),
    spec(
        "collector by name",
        "observability.tracing.otlpEndpoint",
        "http://",
        **observed(tracing={"otlpEndpoint": "x.y:43"}),
    ),
    spec(
        "more than all traces",
        "observability.tracing.samplingPercent",
        "equal to 100",
        **observed(tracing={"otlpEndpoint": "http://otel:4318", "samplingPercent": 101}),
    ),
    spec("shouting log", "observability.logLevel", "must be one of Debug", **observed(logLevel="LOUD")),
    spec("suspended by a word", "suspend", "must be a boolean", suspend="true"),
    cached("no source", "source", "is required", source=None),
    cached("no variants", "variants", "at least 1", variants=[]),
    cached("a variant twice", "variants", "once", variants=["Lite", "Lite"]),
    cached("unknown variant", "variants[0]", "must be one of Cloud", variants=["Huge"]),
    cached("size in GB", "cache.size", "Kubernetes quantity", cache={"size": "20GB"}),
    cached("read by none", "cache.accessMode", "must be one of ReadWriteOnce", cache={"accessMode": "ReadWriteNone"}),
]

BY_STRICTNESS = [
    spec("misspelt field", "engine.replcas", "did you mean replicas?", engine={"replcas": 2}),
    spec("field in snake case", "engine.kv_cache", "did you mean kvCache?", engine={"kv_cache": {"memory": "1Gi"}}),
    spec("field in the wrong place", "replicas", "is not a field that exists", replicas=2),
    Invalid("unknown top-level field", {**a_manifest(), "sepc": {}}, "sepc", "did you mean spec?"),
    spec("name of another API", "engine.autoscaling.maxReplica", "did you mean maxReplicas?", **scaled(maxReplica=3)),
    cached("misspelt field", "variant", "did you mean variants?", variant=["Lite"]),
]

BY_RULE = [
    renamed("a" * 41, "must have at most 40 characters"),
    renamed("1chat", "start with a letter"),
    renamed("chat.eu", "must be lower case letters"),
    spec("file with two slashes", "model.source", "absolute path", **source("file://models/a")),
    spec("steps upwards", "model.source", "must not contain ..", **source("file:///models/../etc")),
    spec("revision of a file", "model.revision", "must be unset", **source("file:///m", revision="main")),
    spec("revision of a builtin", "model.revision", "must be unset", **model(revision="main")),
    spec("digest of many files", "model.sha256", "many files", **source("hf://a/b", sha256=DIGEST)),
    spec("digest of an image", "model.sha256", "many files", **source("oci://r/m:1", sha256=DIGEST)),
    spec(
        "credentials for a builtin",
        "model.credentialsSecretRef",
        "asks for no credentials",
        **model(credentialsSecretRef={"name": "token"}),
    ),
    spec("neither source nor model", "model.source", "must be set unless modelRef", model={}),
    spec("source and model", "model.modelRef", "must be unset when source", **model(modelRef={"name": "olmoe"})),
    spec(
        "revision of a shared model",
        "model.modelRef",
        "must stand without revision",
        model={"modelRef": {"name": "olmoe"}, "revision": "main"},
    ),
    spec(
        "public without keys",
        "gateway.auth",
        "must name apiKeysSecretRef or oidc",
        endpoint={"visibility": "Public", "tls": {"secretName": "tls"}},
    ),
    spec("draft without a model", "draft.model", "must be set when mode is Pods", draft={}),
    spec("lookup with a model", "draft.model", "must be unset when mode is PromptLookup", **draft(mode="PromptLookup")),
    spec("pods without pods", "draft.replicas", "has no pods of its own", **draft(mode="InProcess", replicas=1)),
    spec(
        "place of no pods", "draft.placement", "has no pods of its own", **draft(mode="InProcess", placement="SameNode")
    ),
    spec("resources of no pods", "draft.resources", "has no pods", **draft(mode="InProcess", resources={"cpu": "1"})),
    spec(
        "draft of a file with steps",
        "draft.model.source",
        "must not contain ..",
        draft={"model": {"source": "file:///../a"}},
    ),
    spec(
        "fixed and scaled",
        "engine.replicas",
        "must be unset when autoscaling is set",
        engine={"replicas": 2, "autoscaling": {"maxReplicas": 4}},
    ),
    spec(
        "least above most",
        "engine.autoscaling.minReplicas",
        "must not exceed maxReplicas (4)",
        **scaled(minReplicas=5),
    ),
    spec(
        "zero by an HPA",
        "engine.autoscaling.scaleToZeroAfterSeconds",
        "never goes below one pod",
        **scaled(scaleToZeroAfterSeconds=600, provider="HorizontalPodAutoscaler"),
    ),
    spec(
        "schedule above all bounds",
        "engine.autoscaling.schedules",
        "must stay within maxReplicas (4)",
        **scheduled(minReplicas=5),
    ),
    spec(
        "schedule in disorder",
        "engine.autoscaling.schedules[0].minReplicas",
        "must not exceed maxReplicas (2) of the same schedule",
        **scheduled(minReplicas=3, maxReplicas=2),
    ),
    spec(
        "schedule of no time",
        "engine.autoscaling.schedules[0].end",
        "must differ from start (08:00)",
        **scheduled(end="08:00"),
    ),
    spec(
        "schedule of KEDA",
        "engine.autoscaling.schedules",
        "must be unset when provider is KEDA",
        **{"engine": {"autoscaling": {**scheduled()["engine"]["autoscaling"], "provider": "KEDA"}}},
    ),
    spec("addresses of the cluster", "endpoint.allowedCIDRs", "must be unset", **endpoint(allowedCIDRs=["10.0.0.0/8"])),
    spec(
        "addresses behind an Ingress",
        "endpoint.allowedCIDRs",
        "limit addresses at the Gateway or at the ingress controller",
        **public(ingressClassName="nginx", hostname="a.example.com", allowedCIDRs=["10.0.0.0/8"]),
    ),
    spec("private load balancer", "endpoint.loadBalancer", "must be unset", **endpoint(loadBalancer={})),
    spec(
        "private ingress",
        "endpoint.ingressClassName",
        "must be unset when visibility is Private",
        **endpoint(ingressClassName="nginx", hostname="a.example.com"),
    ),
    spec(
        "cluster-wide Gateway",
        "endpoint.gatewayRef",
        "must be unset when visibility is Cluster",
        **endpoint(visibility="Cluster", gatewayRef={"name": "edge"}, hostname="a.example.com"),
    ),
    spec(
        "namespaces of everyone",
        "endpoint.allowedNamespaces",
        "every namespace may reach",
        **endpoint(visibility="Cluster", allowedNamespaces=["web"]),
    ),
    spec(
        "two doors",
        "endpoint.visibility",
        "must have at most one of",
        **public(loadBalancer={}, ingressClassName="nginx", hostname="a.example.com"),
    ),
    spec("ingress without a name", "endpoint.hostname", "must be set when", **public(ingressClassName="nginx")),
    spec(
        "certificate for no name",
        "endpoint.hostname",
        "a certificate is made for a name",
        **public(tls={"issuerRef": {"name": "acme"}}),
    ),
    spec(
        "certificate beside a Gateway",
        "endpoint.tls",
        "the Gateway's listener holds the certificate",
        **public(gatewayRef={"name": "edge"}, hostname="a.example.com"),
    ),
    spec("public without a certificate", "endpoint.tls", "must be set when visibility is Public", **public(tls=None)),
    spec("certificate of nobody", "endpoint.tls.secretName", "exactly when issuerRef is not", **endpoint(tls={})),
    spec(
        "certificate of two",
        "endpoint.tls.secretName",
        "exactly when issuerRef is not",
        **public(hostname="a.example.com", tls={"secretName": "tls", "issuerRef": {"name": "acme"}}),
    ),
    spec(
        "nodes outside the regions",
        "placement.nodeSelector",
        "must name an allowed region",
        residency={"regions": ["eu"]},
        placement={"nodeSelector": {"topology.kubernetes.io/region": "us"}},
    ),
    spec("canary of no share", "rollout.canaryPercent", "must be set", rollout={"strategy": "Canary"}),
    spec("share of no canary", "rollout.canaryPercent", "must be unset", rollout={"canaryPercent": 10}),
    spec("requests of no canary", "rollout.canaryRequests", "must be unset", rollout={"canaryRequests": 10}),
    spec("pace of no canary", "rollout.canaryLatencyPercent", "must be unset", rollout={"canaryLatencyPercent": 150}),
    spec(
        "canary without room",
        "rollout.surge",
        "runs both revisions side by side",
        rollout={"strategy": "Canary", "canaryPercent": 10, "surge": 0},
    ),
    spec("label that is none", "placement.nodeSelector", "keys that are labels", **placed(nodeSelector={"a b": "c"})),
    spec(
        "value of any value",
        "placement.tolerations[0].value",
        "must be unset when operator is Exists",
        **placed(tolerations=[{"key": "gpu", "operator": "Exists", "value": "yes"}]),
    ),
    spec("taint without a key", "placement.tolerations[0].key", "must be set", **placed(tolerations=[{"value": "a"}])),
    spec(
        "patience without eviction",
        "placement.tolerations[0].tolerationSeconds",
        "unless effect is NoExecute",
        **placed(tolerations=[{"key": "gpu", "tolerationSeconds": 5}]),
    ),
    cached("hardly any memory", "resources.memory", "must be at least 64Mi", resources={"memory": "32Mi"}),
    cached("no processor", "resources.cpu", "must be at least 1m", resources={"cpu": "0"}),
    Invalid("FlashModel: name with a dot", a_model_manifest("olmoe.1b"), "metadata.name", "must be lower case letters"),
    cached("file", "source", "must not be a file", source="file:///models/olmoe"),
    cached("revision of a bucket", "revision", "must be unset", source="s3://a/b", revision="main"),
    cached("digest of many files", "sha256", "many files", sha256=DIGEST),
    cached("cache of nothing", "cache.size", "at least 64Mi", cache={"size": "1Mi"}),
    spec("no cpu", "engine.resources.cpu", "at least 1m", engine={"resources": {"cpu": "0"}}),
    spec("memory in thousandths", "gateway.resources.memory", "64Mi", gateway={"resources": {"memory": "512m"}}),
    spec("cache of a few bytes", "engine.kvCache.memory", "at least 1Mi", engine={"kvCache": {"memory": "100k"}}),
    spec(
        "cache larger than the pod",
        "engine.kvCache.memory",
        "must be less than resources.memory (2Gi)",
        engine={"kvCache": {"memory": "2Gi"}, "resources": {"memory": "2Gi"}},
    ),
    spec(
        "default cache larger than the pod",
        "engine.kvCache.memory",
        "must be less than resources.memory (400M)",
        engine={"resources": {"memory": "400M"}},
    ),
]

INVALID = [*BY_SCHEMA, *BY_STRICTNESS, *BY_RULE]

VALID: dict[str, dict[str, Any]] = {
    "the least": a_manifest(),
    "the longest name": a_manifest("a" * 40),
    "one letter": a_manifest("a"),
    "scaled to zero": a_manifest(engine={"replicas": 0}),
    "a revision": a_manifest(**source("hf://allenai/olmoe", revision="main")),
    "a version of an object": a_manifest(
        **source("s3://bucket/m.gguf?region=eu-west-1", revision="3HL4kqtJlcpXroDTDmJ")
    ),
    "a digest of one file": a_manifest(**source("https://example.com/m.gguf", sha256=DIGEST)),
    "a digest of a builtin": a_manifest(**model(sha256=DIGEST)),
    "credentials": a_manifest(**source("s3://bucket/m", credentialsSecretRef={"name": "s3", "key": "id"})),
    "dots that are no steps": a_manifest(**source("file:///models/a..b/...")),
    "public with keys": a_manifest(**public()),
    "public by tokens": a_manifest(endpoint={"visibility": "Public", "tls": {"secretName": "tls"}}, **oidc()),
    "public through a Gateway": a_manifest(
        **public(
            tls=None,
            gatewayRef={"name": "edge", "namespace": "gateways", "sectionName": "https"},
            hostname="chat.example.com",
        )
    ),
    "public through an Ingress": a_manifest(
        **public(
            ingressClassName="nginx",
            hostname="chat.example.com",
            tls={"issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
        )
    ),
    "public through a load balancer": a_manifest(
        **public(
            loadBalancer={"class": "service.k8s.aws/nlb", "internal": True}, allowedCIDRs=["203.0.113.7/24", "::/0"]
        )
    ),
    "public through whatever load balancer there is": a_manifest(
        **public(hostname="chat.example.com", tls={"issuerRef": {"name": "acme"}}, loadBalancer={})
    ),
    "private by TLS": a_manifest(**endpoint(hostname="chat.corp.example.com", tls={"secretName": "tls"})),
    "private with friends": a_manifest(**endpoint(allowedNamespaces=["web", "batch"])),
    "a shared model": a_manifest(model={"modelRef": {"name": "olmoe"}, "maxContextTokens": 4096}),
    "a draft in pods": a_manifest(**draft(replicas=2, placement="SameZone", resources={"cpu": "1", "memory": "1Gi"})),
    "a draft in the engine": a_manifest(**draft(mode="InProcess", lookahead=8)),
    "a draft from the prompt": a_manifest(draft={"mode": "PromptLookup"}),
    "a draft of a shared model": a_manifest(draft={"model": {"modelRef": {"name": "nano"}}, "lookahead": 2}),
    "a shared model in the engine": a_manifest(draft={"mode": "InProcess", "model": {"modelRef": {"name": "nano"}}}),
    "a draft of set length": a_manifest(draft={"mode": "PromptLookup", "lookahead": 3}),
    "a draft that is off": a_manifest(**draft(mode="Off", replicas=2)),
    "scaled by load": a_manifest(**scaled(minReplicas=4)),
    "scaled by KEDA to zero": a_manifest(**scaled(provider="KEDA", scaleToZeroAfterSeconds=900)),
    "scaled over midnight": a_manifest(
        **scheduled(start="22:00", end="06:00", days=["Sunday"], timeZone="Europe/Berlin")
    ),
    "audited residency": a_manifest(residency={"regions": ["eu-central-1", "eu-west-1"], "mode": "Audit"}),
    "nodes inside the regions": a_manifest(
        residency={"regions": ["eu"]}, placement={"nodeSelector": {"topology.kubernetes.io/region": "eu", "empty": ""}}
    ),
    "a canary": a_manifest(rollout={"strategy": "Canary", "canaryPercent": 50}),
    "a rollout in place": a_manifest(rollout={"surge": 0, "paused": True}),
    "every taint tolerated": a_manifest(
        **placed(tolerations=[{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 0}])
    ),
    "observed by default": a_manifest(**observed()),
    "nulls, which are as good as nothing": a_manifest(
        **source("hf://a/b", revision=None), engine={"replicas": 2, "autoscaling": None}, gateway={"replicas": None}
    ),
    "suspended": a_manifest(suspend=True),
    "FlashModel: the least": a_model_manifest(),
    "FlashModel: every field": a_model_manifest(
        revision="main",
        credentialsSecretRef={"name": "hub-token", "key": "token"},
        variants=["Cloud", "Lite", "Nano"],
        cache={"size": "40Gi", "storageClassName": "fast", "accessMode": "ReadWriteMany"},
        resources={"cpu": "4", "memory": "8Gi"},
        residency={"regions": ["eu"], "mode": "Audit"},
    ),
    "FlashModel: a digest of one file": a_model_manifest(source="https://example.com/m.gguf", sha256=DIGEST),
    "the smallest resources": a_manifest(
        engine={"resources": {"cpu": "1m", "memory": "64Mi"}, "kvCache": {"memory": "1Mi"}}
    ),
    "mixed units": a_manifest(engine={"resources": {"cpu": "0.5", "memory": "1G"}, "kvCache": {"memory": "953Mi"}}),
    "everything": a_manifest(
        variant="Nano",
        model={"source": "hf://a/b", "activeExperts": 4, "maxContextTokens": 8192},
        engine={"replicas": 3, "maxConcurrentRequests": 32},
        gateway={
            "replicas": 2,
            "limits": {
                "maxBodyBytes": 1048576,
                "maxOutputTokens": 100,
                "maxInflightRequests": 10,
                "requestTimeoutSeconds": 60,
            },
        },
        endpoint={"visibility": "Cluster", "port": 80},
    ),
}

_SCHEDULE = {
    "name": "office",
    "days": ["Monday", "Tuesday"],
    "start": "08:00",
    "end": "18:30",
    "timeZone": "Europe/Berlin",
    "minReplicas": 2,
    "maxReplicas": 4,
}
EVERY_FIELD = a_manifest(
    "every-field",
    variant="Cloud",
    suspend=True,
    model={
        "source": "hf://allenai/OLMoE-1B-7B-0924",
        "revision": "main",
        "credentialsSecretRef": {"name": "hub-token", "key": "token"},
        "activeExperts": 4,
        "maxContextTokens": 8192,
    },
    draft={
        "mode": "Pods",
        "model": {"source": "https://example.com/draft.gguf", "sha256": DIGEST},
        "replicas": 2,
        "lookahead": 5,
        "placement": "SameZone",
        "resources": {"cpu": "2", "memory": "2Gi"},
    },
    engine={
        "autoscaling": {
            "provider": "BuiltIn",
            "minReplicas": 2,
            "maxReplicas": 8,
            "targets": {"ttftMilliseconds": 150, "tpotMilliseconds": 40, "queuedRequests": 8},
            "scaleDownStabilizationSeconds": 120,
            "scaleToZeroAfterSeconds": 900,
            "schedules": [_SCHEDULE],
        },
        "resources": {"cpu": "8", "memory": "16Gi"},
        "maxConcurrentRequests": 32,
        "kvCache": {"memory": "4Gi", "dtype": "int8"},
    },
    gateway={
        "replicas": 2,
        "auth": {
            "apiKeysSecretRef": {"name": "keys", "key": "chat"},
            "oidc": {"issuerURL": "https://login.example.com/a", "audiences": ["chat"], "usernameClaim": "email"},
        },
        "limits": {
            "maxBodyBytes": 1048576,
            "maxOutputTokens": 100,
            "maxInflightRequests": 10,
            "requestTimeoutSeconds": 60,
        },
        "resources": {"cpu": "500m", "memory": "512Mi"},
    },
    endpoint={
        "visibility": "Public",
        "port": 443,
        "allowedCIDRs": ["203.0.113.0/24", "2001:db8::/32"],
        "hostname": "chat.example.com",
        "tls": {"issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
        "loadBalancer": {"class": "service.k8s.aws/nlb", "internal": True, "allocateNodePorts": False},
    },
    residency={"regions": ["eu-central-1"], "mode": "Enforce"},
    rollout={
        "strategy": "Canary",
        "canaryPercent": 10,
        "canaryRequests": 200,
        "canaryLatencyPercent": 150,
        "surge": 1,
        "paused": True,
        "progressDeadlineSeconds": 900,
    },
    placement={
        "nodeSelector": {"node.kubernetes.io/instance-type": "c7i.4xlarge"},
        "tolerations": [
            {
                "key": "gpu",
                "operator": "Equal",
                "value": "present",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
        ],
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "topologySpread": [
            {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}
        ],
    },
    observability={
        "metrics": {"podMonitor": "Auto", "podMonitorLabels": {"release": "prometheus"}, "intervalSeconds": 30},
        "tracing": {"otlpEndpoint": "http://collector.monitoring.svc:4318", "samplingPercent": 5},
        "logLevel": "Warning",
    },
)
"""Every field that can stand beside the others; ALTERNATIVES holds the rest."""

ALTERNATIVES = {
    "draft.model.modelRef.name",
    "draft.model.revision",
    "draft.model.credentialsSecretRef.name",
    "draft.model.credentialsSecretRef.key",
    "endpoint.allowedNamespaces",
    "endpoint.gatewayRef.name",
    "endpoint.gatewayRef.namespace",
    "endpoint.gatewayRef.sectionName",
    "endpoint.ingressClassName",
    "endpoint.tls.secretName",
    "engine.replicas",
    "model.modelRef.name",
    "model.sha256",
}
"""Fields that exclude one of EVERY_FIELD."""

VALID["every field"] = EVERY_FIELD


@dataclass(frozen=True)
class Change:
    """A change of an object that exists, and what its author must be told; nothing = it is allowed."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]
    field: str = ""
    says: str = ""


def _resident(*regions: str, mode: str = "Enforce") -> dict[str, Any]:
    return a_manifest(residency={"regions": list(regions), "mode": mode})


def _balanced(**fields: Any) -> dict[str, Any]:
    return a_manifest(**public(loadBalancer=fields))


FORBIDDEN_CHANGES = [
    Change(
        "another class of load balancer",
        _balanced(**{"class": "a.example.com/one"}),
        _balanced(**{"class": "a.example.com/two"}),
        "spec.endpoint.loadBalancer",
        "must keep its class",
    ),
    Change(
        "a class for a load balancer that has none",
        a_manifest(**public()),
        _balanced(**{"class": "a.example.com/one"}),
        "spec.endpoint.loadBalancer",
        "must keep its class",
    ),
    Change("another region", _resident("eu"), _resident("us"), "spec.residency.regions", "must not change"),
    Change("one more region", _resident("eu"), _resident("eu", "us"), "spec.residency.regions", "must not change"),
    Change(
        "weaker residency", _resident("eu"), _resident("eu", mode="Audit"), "spec.residency.mode", "must not go back"
    ),
    Change("no residency any more", _resident("eu"), a_manifest(), "spec.residency", "must not be removed"),
    Change(
        "another source",
        a_model_manifest(),
        a_model_manifest(source="hf://other/model"),
        "spec.source",
        "must not change",
    ),
    Change(
        "another revision", a_model_manifest(revision="a"), a_model_manifest(revision="b"), "spec.revision", "must not"
    ),
    Change("no revision any more", a_model_manifest(revision="a"), a_model_manifest(), "spec.revision", "must not"),
    Change(
        "a digest afterwards",
        a_model_manifest(source="https://e.com/m"),
        a_model_manifest(source="https://e.com/m", sha256=DIGEST),
        "spec.sha256",
        "must not change",
    ),
    Change(
        "a smaller cache",
        a_model_manifest(cache={"size": "20Gi"}),
        a_model_manifest(cache={"size": "10Gi"}),
        "spec.cache.size",
        "must not become less",
    ),
    Change(
        "another storage class",
        a_model_manifest(cache={"storageClassName": "a"}),
        a_model_manifest(cache={"storageClassName": "b"}),
        "spec.cache.storageClassName",
        "must not change",
    ),
    Change(
        "another access mode",
        a_model_manifest(),
        a_model_manifest(cache={"accessMode": "ReadWriteMany"}),
        "spec.cache.accessMode",
        "must not change",
    ),
    Change(
        "a model that leaves its region",
        a_model_manifest(residency={"regions": ["eu"]}),
        a_model_manifest(),
        "spec.residency",
        "must not be removed",
    ),
]

ALLOWED_CHANGES = [
    Change("residency afterwards", a_manifest(), _resident("eu")),
    Change("stronger residency", _resident("eu", mode="Audit"), _resident("eu")),
    Change("regions in another order", _resident("eu", "us"), _resident("us", "eu")),
    Change("another model", a_manifest(), a_manifest(**source("hf://a/b"))),
    Change("from fixed to scaled", a_manifest(engine={"replicas": 3}), a_manifest(**scaled())),
    Change("a load balancer becomes internal", _balanced(), _balanced(internal=True)),
    Change("a class for a new load balancer", a_manifest(), _balanced(**{"class": "a.example.com/one"})),
    Change("a larger cache", a_model_manifest(cache={"size": "10Gi"}), a_model_manifest(cache={"size": "20480Mi"})),
    Change("one more variant", a_model_manifest(), a_model_manifest(variants=["Lite", "Nano"])),
]
