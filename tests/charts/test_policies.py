"""The chart, and every object that the operator makes of our examples, before the eyes of policy tools."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.policies import CHECKS, Finding, findings
from helm_plugin import Helm

from flash_api.manifest import parse_manifests
from flash_operator.plan import PlanSettings, model_plan, plan
from flash_operator.shared_model import shared_model

Manifest = dict[str, Any]

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SIZED = "nothing is asked for where spec.engine.resources or spec.gateway.resources say nothing; the API promises that"
EXCEPTIONS: dict[tuple[str, str], str] = {
    (
        "kube-score:container-image-pull-policy",
        "*",
    ): "our tags name one release for ever, and a node without a registry "
    "must be able to restart a pod; images.pullPolicy and digests change it",
    ("kube-score:container-resources (CPU limit)", "*"): "a CPU limit makes the kernel stop a pod in the middle of a "
    "token although the node is idle; where spec says cpu, it is request and limit",
    ("kube-score:container-ephemeral-storage-request-and-limit", "*"): "every writable volume is an emptyDir with a "
    "sizeLimit or a claim, and root file systems are read only, which bounds what a pod may write",
    ("kube-linter:unset-cpu-requirements", "planned"): SIZED,
    ("kube-linter:unset-memory-requirements", "planned"): SIZED,
    ("kube-score:deployment-replicas", "*"): "one is the cheap default; replicas, gateway.replicas and autoscaling ask "
    "for more",
    (
        "kube-linter:dangling-service",
        "planned",
    ): "the Service of engines on trial stands before there are any: gateways look its name up",
    ("kube-linter:job-ttl-seconds-after-finished", "planned"): "a finished pull is the proof that a model is on its "
    "volume; the Job goes with its FlashModel",
}
"""By rule, and where it may be broken: everywhere, or in what the operator plans."""


def planned(file: Path) -> list[Manifest]:
    """What the operator makes of a file that it serves."""
    parsed = parse_manifests(file.read_text(), namespace="ai")
    settings = PlanSettings()
    models = {model.metadata.name: model for model in parsed.models}
    objects: list[Manifest] = [o for model in models.values() for o in model_plan(model, settings).objects]
    for deployment in parsed.deployments:
        ref = deployment.spec.model.model_ref
        shared = shared_model(models[ref.name]) if ref is not None else None
        objects += plan(deployment, settings, shared=shared).objects
    return [dict(each) for each in objects]


def excused(finding: Finding, where: str) -> bool:
    return (finding.rule, "*") in EXCEPTIONS or (finding.rule, where) in EXCEPTIONS


@pytest.fixture(scope="module")
def chart(helm: Helm) -> list[Manifest]:
    return [m for m in yaml.load_all(helm.template(), yaml.CSafeLoader) if m]


def test_the_chart_breaks_no_rule_that_it_need_not(chart: list[Manifest]) -> None:
    assert [f for f in findings(chart) if not excused(f, "chart")] == []


def test_the_chart_with_everything_on_breaks_no_rule_that_it_need_not(helm: Helm) -> None:
    chosen = "replicas=3,metrics.alerts.enabled=true,metrics.dashboard.enabled=true,cluster.metricsNamespace=monitoring"
    world = [m for m in yaml.load_all(helm.template("--set", chosen), yaml.CSafeLoader) if m]
    assert [f for f in findings(world) if not excused(f, "chart")] == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_what_the_operator_makes_of_an_example_breaks_no_rule_that_it_need_not(file: Path) -> None:
    world = planned(file)
    assert {m["kind"] for m in world} >= {"Deployment", "NetworkPolicy", "Service", "ServiceAccount", "ConfigMap"}
    assert [f for f in findings(world) if not excused(f, "planned")] == []


def test_every_exception_is_needed(chart: list[Manifest]) -> None:
    found = {("chart", f.rule) for f in findings(chart)}
    found |= {("planned", f.rule) for file in EXAMPLES for f in findings(planned(file))}
    for rule, where in EXCEPTIONS:
        assert rule in CHECKS
        assert any(rule == broken for place, broken in found if where in ("*", place)), rule


BAD_POD = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "bad"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "other"}},
        "template": {
            "metadata": {"labels": {"app": "bad"}},
            "spec": {
                "hostNetwork": True,
                "serviceAccount": "ghost",
                "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
                "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
                "containers": [
                    {
                        "name": "c",
                        "image": "nginx:latest",
                        "securityContext": {"privileged": True, "runAsUser": 0, "procMount": "Unmasked"},
                        "env": [{"name": "API_KEY", "value": "x"}, {"name": "API_KEY", "value": "y"}],
                        "ports": [{"containerPort": 22, "hostPort": 22}],
                        "livenessProbe": {"httpGet": {"port": 80}},
                        "readinessProbe": {"httpGet": {"port": 80}},
                    }
                ],
            },
        },
    },
}
BAD_REST: list[Manifest] = [
    {"kind": "Service", "metadata": {"name": "bad"}, "spec": {"type": "NodePort", "selector": {"x": "y"}, "ports": []}},
    {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "bad"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"x": "y"}}},
    },
    {
        "kind": "ClusterRole",
        "metadata": {"name": "bad"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    },
    {
        "kind": "Job",
        "metadata": {"name": "bad"},
        "spec": {
            "template": {
                "metadata": {},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}], "volumes": []},
            }
        },
    },
    {
        "kind": "Deployment",
        "metadata": {"name": "small"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {}},
            "template": {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}},
        },
    },
]


def test_every_check_finds_what_it_is_there_for() -> None:
    broken = Counter(finding.rule for finding in findings([BAD_POD, *BAD_REST]))
    assert set(CHECKS) == broken.keys()
