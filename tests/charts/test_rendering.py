"""The chart rendered by real Helm: every combination is valid Kubernetes, restricted, and what the operator expects."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_plugin import CHART, NAMESPACE, Helm

from flash_api import names
from flash_operator.plan import PlanSettings

Manifest = dict[str, Any]

CHOICES: dict[str, tuple[str, ...]] = {
    "scope": ("", "namespaces={alpha,beta}", "namespaces={alpha},rbac.nodes=true"),
    "replicas": ("", "replicas=3,podDisruptionBudget.enabled=true"),
    "account": ("", "serviceAccount.create=false,serviceAccount.name=own", "rbac.create=false"),
    "parts": ("", "crds.install=false", "crds.keep=false,networkPolicy.enabled=false,residencyPolicy.enabled=false"),
    "images": (
        "",
        "images.registry=,images.operator.digest=sha256:" + "0" * 64,
        "images.registry=registry.example.com:5000/mirror,images.pullSecrets={one,two},images.engine.tag=1.2.3",
    ),
    "cluster": (
        "",
        "cluster.metricsNamespace=monitoring,cluster.enforcesNetworkPolicies=false,metrics.podMonitor.enabled=true,"
        "metrics.alerts.enabled=true,metrics.dashboard.enabled=true",
        "networkPolicy.apiServerCIDRs={10.0.0.0/28},log.verbose=true,priorityClassName=high,podLabels.team=ml",
        "externalMetrics.enabled=true,keda.enabled=true",
    ),
}
VALIDATED_BY = "1.34.1"
NOT_OF_KUBERNETES = ("PodMonitor", "PrometheusRule", "ClusterTriggerAuthentication")


def combinations() -> list[str]:
    """Every pair of choices of two different kinds, and all of those that decide which objects there are."""
    found = [pair for two in itertools.combinations(CHOICES.values(), 2) for pair in itertools.product(*two)]
    found += itertools.product(*(CHOICES[kind] for kind in ("scope", "account", "parts", "cluster")))
    return sorted({",".join(filter(None, chosen)) for chosen in found})


def rendered(helm: Helm, *options: str) -> list[Manifest]:
    return [manifest for manifest in yaml.load_all(helm.template(*options), yaml.CSafeLoader) if manifest]


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"]))
    return found


@pytest.fixture(scope="module")
def defaults(helm: Helm) -> list[Manifest]:
    return rendered(helm)


def test_every_combination_of_values_is_valid_kubernetes(helm: Helm, capsys: pytest.CaptureFixture[str]) -> None:
    tried = combinations()
    valid: set[str] = set()
    for options in tried:
        manifests = rendered(helm, *(("--set", options) if options else ()))
        identities = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
        assert len(set(identities)) == len(identities), options
        for manifest in manifests:
            text = json.dumps(manifest, sort_keys=True)
            if manifest["kind"] not in NOT_OF_KUBERNETES and text not in valid:
                kubernetes_validate.validate(manifest, VALIDATED_BY, strict=True)
                valid.add(text)
    assert len(tried) >= 100
    with capsys.disabled():
        print(f" [{len(tried)} combinations of values, {len(valid)} different objects]", end="")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("replicas=-1", "/replicas"),
        ("images.pullPolicy=Sometimes", "/images/pullPolicy"),
        ("images.operator.digest=sha256:12", "/images/operator/digest"),
        ("namespaces={Upper}", "/namespaces/0"),
        ("metrics.port=80", "/metrics/port"),
        ("resources.limits.memory=lots", "/resources/limits/memory"),
        ("replica=2", "additional properties 'replica' not allowed"),
        ("rbac.node=true", "additional properties 'node' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, options: str, message: str) -> None:
    done = helm.run("template", "flashplane", str(CHART), "--set", options)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_schema_knows_exactly_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def paths(node: Any, path: str = "") -> Iterator[str]:
        yield path
        for key, inner in (node.get("properties") or {}).items():
            yield from paths(inner, f"{path}.{key}")

    def written(node: Any, path: str = "") -> Iterator[str]:
        yield path
        if isinstance(node, dict):
            for key, inner in node.items():
                yield from written(inner, f"{path}.{key}")

    free = ("resources.",)  # below it stand names that Kubernetes gives
    ours = {path for path in written(values) if not path.startswith(tuple(f".{each}" for each in free))}
    ours -= {".metrics.dashboard.labels.grafana_dashboard"}  # as free as its neighbours
    assert ours == set(paths(schema)) - {".global", ".resources.requests", ".resources.limits"}


def test_the_operators_pod_meets_the_restricted_profile(defaults: list[Manifest]) -> None:
    pod = one(defaults, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


def test_the_images_are_those_of_this_release(defaults: list[Manifest]) -> None:
    arguments = one(defaults, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--engine-image={PlanSettings().engine_image}" in arguments
    assert f"--gateway-image={PlanSettings().gateway_image}" in arguments


def test_no_rule_has_a_wildcard_or_reads_secrets(defaults: list[Manifest]) -> None:
    rules = [rule for m in defaults if m["kind"] in ("Role", "ClusterRole") for rule in m["rules"]]
    assert len(rules) > 5
    for rule in rules:
        assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        assert "secrets" not in rule["resources"]


def test_named_namespaces_get_roles_and_nothing_is_granted_in_the_cluster(helm: Helm) -> None:
    manifests = rendered(helm, "--set", "namespaces={alpha,beta}")
    kinds = {(m["kind"], m["metadata"].get("namespace")) for m in manifests if "Role" in m["kind"]}
    assert {(kind, space) for kind in ("Role", "RoleBinding") for space in ("alpha", "beta", NAMESPACE)} == kinds
    arguments = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [a for a in arguments if a.startswith("--namespace=")] == ["--namespace=alpha", "--namespace=beta"]


def test_the_crds_are_the_committed_ones_and_outlive_the_release(defaults: list[Manifest], helm: Helm) -> None:
    found = {m["metadata"]["name"]: m for m in defaults if m["kind"] == "CustomResourceDefinition"}
    committed = [yaml.safe_load(path.read_text()) for path in sorted((CHART.parents[1] / "crds").glob("*.yaml"))]
    assert {name: m["spec"] for name, m in found.items()} == {m["metadata"]["name"]: m["spec"] for m in committed}
    assert {m["metadata"]["annotations"]["helm.sh/resource-policy"] for m in found.values()} == {"keep"}
    gone = rendered(helm, "--set", "crds.keep=false")
    kept = [m for m in gone if "helm.sh/resource-policy" in (m["metadata"].get("annotations") or {})]
    assert kept == []


def test_the_operator_reaches_the_api_dns_and_gateways_and_nobody_else(defaults: list[Manifest]) -> None:
    spec = one(defaults, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == []
    gateways = spec["egress"][-1]
    assert [port["port"] for port in gateways["ports"]] == [names.PORT_GATEWAY]
    (peer,) = gateways["to"]
    assert peer["podSelector"] == {"matchLabels": {names.LABEL_COMPONENT: names.COMPONENT_GATEWAY}}


def test_the_table_of_values_is_the_generated_one() -> None:
    values = (CHART / "values.yaml").read_text()
    described = re.findall(r"^\s*# -- ", values, re.MULTILINE)
    table = (CHART / "README.md").read_text()
    assert len(re.findall(r"^\| `", table, re.MULTILINE)) == len(described)
