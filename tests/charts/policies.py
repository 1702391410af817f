"""What tools for policies look for, restated as small checks over plain objects: Pod Security Standards `restricted`
(kubernetes.io/docs/concepts/security/pod-security-standards), kube-linter's default checks (docs.kubelinter.io/#/generated/checks)
and kube-score's (github.com/zegl/kube-score, README_CHECKS.md). Each check is named as its tool names it.
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Manifest = dict[str, Any]


class Finding(NamedTuple):
    """One object that breaks one rule."""

    rule: str
    kind: str
    name: str
    detail: str = ""


Check = Callable[[Sequence[Manifest]], Iterator[tuple[Manifest, str]]]
CHECKS: dict[str, Check] = {}

ALLOWED_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
    }
)


def findings(world: Sequence[Manifest]) -> Iterator[Finding]:
    """Everything that any check has to say."""
    for rule, check in CHECKS.items():
        for manifest, detail in check(world):
            yield Finding(rule, manifest["kind"], manifest["metadata"]["name"], detail)


def pods(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Objects that make pods, each with its template."""
    for manifest in world:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest, manifest["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def of_pods(rule: str) -> Callable[[Callable[[Manifest], str | bool | None]], None]:
    """A check of a pod's spec: what is wrong with it, if anything is."""

    def register(check: Callable[[Manifest], str | bool | None]) -> None:
        def run(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
            for manifest, template in pods(world):
                if found := check(template["spec"]):
                    yield manifest, str(found)

        CHECKS[rule] = run

    return register


def of_containers(rule: str) -> Callable[[Callable[[Manifest, Manifest], str | bool | None]], None]:
    """A check of one container, given with its pod's spec."""

    def register(check: Callable[[Manifest, Manifest], str | bool | None]) -> None:
        def run(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
            for manifest, template in pods(world):
                for container in containers(template):
                    if check(container, template["spec"]):
                        yield manifest, container["name"]

        CHECKS[rule] = run

    return register


def of_objects(rule: str) -> Callable[[Check], Check]:
    """A check that looks at several objects."""

    def register(check: Check) -> Check:
        CHECKS[rule] = check
        return check

    return register


def security(container: Manifest, pod: Manifest, field: str) -> Any:
    """A field of the security context: the container's own, else its pod's."""
    return (container.get("securityContext") or {}).get(field, (pod.get("securityContext") or {}).get(field))


def resource(container: Manifest, part: str, name: str) -> Any:
    return ((container.get("resources") or {}).get(part) or {}).get(name)


# Pod Security Standards, restricted (and what it takes over from baseline).
of_pods("pss:host-namespaces")(lambda pod: any(pod.get(f"host{kind}") for kind in ("Network", "PID", "IPC")))
of_pods("pss:volume-types")(
    lambda pod: ", ".join(v["name"] for v in pod.get("volumes", ()) if not (v.keys() - {"name"}) <= ALLOWED_VOLUMES)
)
of_pods("pss:sysctls")(
    lambda pod: any(s["name"] not in SAFE_SYSCTLS for s in (pod.get("securityContext") or {}).get("sysctls", ()))
)
of_containers("pss:privileged")(lambda container, pod: security(container, pod, "privileged"))
of_containers("pss:privilege-escalation")(
    lambda container, pod: (container.get("securityContext") or {}).get("allowPrivilegeEscalation") is not False
)
of_containers("pss:capabilities")(
    lambda container, pod: (
        (capabilities := (container.get("securityContext") or {}).get("capabilities") or {}).get("drop") != ["ALL"]
        or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}
    )
)
of_containers("pss:seccomp")(
    lambda container, pod: (
        (security(container, pod, "seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost")
    )
)
of_containers("pss:run-as-non-root")(lambda container, pod: security(container, pod, "runAsNonRoot") is not True)
of_containers("pss:run-as-user")(lambda container, pod: security(container, pod, "runAsUser") == 0)
of_containers("pss:host-ports")(lambda container, pod: any(port.get("hostPort") for port in container.get("ports", ())))
of_containers("pss:proc-mount")(lambda container, pod: security(container, pod, "procMount") not in (None, "Default"))

# kube-linter's defaults that are not said above.
of_pods("kube-linter:deprecated-service-account-field")(lambda pod: "serviceAccount" in pod)
of_containers("kube-linter:no-read-only-root-fs")(
    lambda container, pod: security(container, pod, "readOnlyRootFilesystem") is not True
)
of_containers("kube-linter:latest-tag")(
    lambda container, pod: not re.search(r"(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)$", container["image"])
)
of_containers("kube-linter:duplicate-env-var")(
    lambda container, pod: len({e["name"] for e in container.get("env", ())}) != len(container.get("env", ()))
)
of_containers("kube-linter:env-var-secret")(
    lambda container, pod: any(re.search(r"(?i)secret|password|token$|key$", e["name"]) and "value" in e
                               for e in container.get("env", ()))
)  # fmt: skip
of_containers("kube-linter:ssh-port")(
    lambda container, pod: 22 in [p["containerPort"] for p in container.get("ports", ())]
)
of_containers("kube-linter:unset-cpu-requirements")(lambda container, pod: not resource(container, "requests", "cpu"))
of_containers("kube-linter:unset-memory-requirements")(
    lambda container, pod: not (resource(container, "requests", "memory") and resource(container, "limits", "memory"))
)


@of_objects("kube-linter:liveness-port, readiness-port, startup-port")
def probes_ask_declared_ports(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest, template in pods(world):
        for container in containers(template):
            known = {
                value for port in container.get("ports", ()) for value in (port["containerPort"], port.get("name"))
            }
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                asked = container.get(probe) or {}
                port = (asked.get("httpGet") or asked.get("tcpSocket") or asked.get("grpc") or {}).get("port")
                if port is not None and port not in known:
                    yield manifest, f"{container['name']} {probe} {port}"


@of_objects("kube-linter:mismatching-selector")
def selectors_match_their_template(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest, template in pods(world):
        if manifest["kind"] == "Deployment" and not selects(manifest["spec"]["selector"], template):
            yield manifest, ""


@of_objects("kube-linter:dangling-service")
def services_have_pods(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for service in world:
        if service["kind"] == "Service":
            chosen = [t for _, t in pods(world) if selects({"matchLabels": service["spec"]["selector"]}, t)]
            if not chosen:
                yield service, ""
            known = {
                value
                for template in chosen
                for container in containers(template)
                for port in container.get("ports", ())
                for value in (port["containerPort"], port.get("name"))
            }
            for port in service["spec"]["ports"]:
                if chosen and port.get("targetPort", port["port"]) not in known:
                    yield service, f"port {port['port']}: kube-linter:invalid-target-ports"


@of_objects("kube-linter:non-existent-service-account")
def accounts_are_made(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    made = {m["metadata"]["name"] for m in world if m["kind"] == "ServiceAccount"}
    for manifest, template in pods(world):
        if template["spec"].get("serviceAccountName") not in made:
            yield manifest, str(template["spec"].get("serviceAccountName"))


@of_objects("kube-linter:no-anti-affinity")
def replicas_spread(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest, template in pods(world):
        spec = template["spec"]
        spreads = spec.get("topologySpreadConstraints") or (spec.get("affinity") or {}).get("podAntiAffinity")
        if manifest["kind"] == "Deployment" and manifest["spec"].get("replicas", 1) > 1 and not spreads:
            yield manifest, ""


@of_objects("kube-linter:pdb-max-unavailable, pdb-min-available, pdb-unhealthy-pod-eviction-policy")
def budgets_let_nodes_drain(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for budget in world:
        if budget["kind"] == "PodDisruptionBudget":
            spec = budget["spec"]
            replicas = max(
                (m["spec"].get("replicas", 1) for m, t in pods(world) if selects(spec["selector"], t)), default=0
            )
            if spec.get("maxUnavailable") in (0, "0%") or spec.get("minAvailable") in (replicas, "100%"):
                yield budget, "no pod may ever be evicted"
            if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
                yield budget, "unhealthy pods hold up a drain"


@of_objects("kube-linter:cluster-admin-role-binding, wildcard-in-rules, access-to-secrets, access-to-create-pods")
def rights_are_narrow(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest in world:
        if (manifest.get("roleRef") or {}).get("name") == "cluster-admin":
            yield manifest, "cluster-admin"
        for rule in manifest.get("rules") or () if manifest["kind"] in ("Role", "ClusterRole") else ():
            resources, verbs = set(rule.get("resources", ())), set(rule["verbs"])
            if "*" in resources | verbs | set(rule.get("apiGroups", ())):
                yield manifest, "wildcard"
            if "secrets" in resources or ("pods" in resources and "create" in verbs):
                yield manifest, f"{sorted(resources)} {sorted(verbs)}"


@of_objects("kube-linter:job-ttl-seconds-after-finished")
def jobs_end(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest in world:
        if manifest["kind"] == "Job" and "ttlSecondsAfterFinished" not in manifest["spec"]:
            yield manifest, ""


# kube-score's that are not said above.
of_containers("kube-score:container-security-context-user-group-id")(
    lambda container, pod: (
        (security(container, pod, "runAsUser") or 0) < 10_000 or (security(container, pod, "runAsGroup") or 0) < 10_000
    )
)
of_containers("kube-score:container-image-pull-policy")(
    lambda container, pod: container.get("imagePullPolicy") != "Always"
)
of_containers("kube-score:container-resources (CPU limit)")(
    lambda container, pod: not resource(container, "limits", "cpu")
)
of_containers("kube-score:container-ephemeral-storage-request-and-limit")(
    lambda container, pod: not resource(container, "limits", "ephemeral-storage")
)
of_containers("kube-score:pod-probes (identical)")(
    lambda container, pod: (
        container.get("livenessProbe") is not None
        and {**container["livenessProbe"], "failureThreshold": 0}
        == {**container.get("readinessProbe", {}), "failureThreshold": 0}
    )
)
of_pods("kube-score:pod-probes")(
    lambda pod: (
        pod.get("restartPolicy", "Always") == "Always"
        and any("readinessProbe" not in container for container in pod["containers"])
    )
)


@of_objects("kube-score:pod-networkpolicy")
def pods_have_network_policies(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    policies = [m["spec"] for m in world if m["kind"] == "NetworkPolicy"]
    for manifest, template in pods(world):
        covered = {t for policy in policies if selects(policy["podSelector"], template) for t in policy["policyTypes"]}
        if covered != {"Ingress", "Egress"}:
            yield manifest, f"covered: {sorted(covered)}"


@of_objects("kube-score:deployment-has-poddisruptionbudget")
def deployments_have_budgets(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    budgets = [m["spec"]["selector"] for m in world if m["kind"] == "PodDisruptionBudget"]
    for manifest, template in pods(world):
        several = manifest["kind"] == "Deployment" and manifest["spec"].get("replicas", 1) > 1
        if several and not any(selects(selector, template) for selector in budgets):
            yield manifest, ""


@of_objects("kube-score:deployment-replicas")
def deployments_have_two_replicas(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest in world:
        if manifest["kind"] == "Deployment" and manifest["spec"].get("replicas", 1) < 2:
            yield manifest, ""


@of_objects("kube-score:service-type")
def services_are_inside(world: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    for manifest in world:
        if manifest["kind"] == "Service" and manifest["spec"].get("type") == "NodePort":
            yield manifest, ""


# CIS Kubernetes Benchmark 5.1.6 and checkov CKV_K8S_38: a token only where the API is called, and of a short life.
of_pods("cis:5.1.6 service-account-token")(lambda pod: pod.get("automountServiceAccountToken") is not False)


def selects(selector: Mapping[str, Any], template: Manifest) -> bool:
    """Whether a label selector chooses pods of the template."""
    labels = template["metadata"].get("labels") or {}
    by_label = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return by_label and all(
        {"In": labels.get(e["key"]) in e.get("values", ()), "Exists": e["key"] in labels}.get(e["operator"], False)
        for e in selector.get("matchExpressions") or ()
    )
