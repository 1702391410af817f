"""Manifests that must be refused and manifests that must be accepted, by `flash lint` and by the API server alike."""

from dataclasses import dataclass
from typing import Any

from builders import a_manifest

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


BY_SCHEMA = [
    Invalid("no model", {**a_manifest(), "spec": {}}, "spec.model", "is required"),
    spec("no source", "model.source", "is required", model={}),
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
]

BY_STRICTNESS = [
    spec("misspelt field", "engine.replcas", "did you mean replicas?", engine={"replcas": 2}),
    spec("field in snake case", "engine.kv_cache", "did you mean kvCache?", engine={"kv_cache": {"memory": "1Gi"}}),
    spec("field in the wrong place", "replicas", "is not a field that exists", replicas=2),
    Invalid("unknown top-level field", {**a_manifest(), "sepc": {}}, "sepc", "did you mean spec?"),
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
    spec("public without keys", "gateway.auth", "must name apiKeysSecretRef", endpoint={"visibility": "Public"}),
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
    "a digest of one file": a_manifest(**source("https://example.com/m.gguf", sha256=DIGEST)),
    "a digest of a builtin": a_manifest(**model(sha256=DIGEST)),
    "credentials": a_manifest(**source("s3://bucket/m", credentialsSecretRef={"name": "s3", "key": "id"})),
    "dots that are no steps": a_manifest(**source("file:///models/a..b/...")),
    "public with keys": a_manifest(
        endpoint={"visibility": "Public"}, gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}}
    ),
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
