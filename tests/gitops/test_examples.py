"""The GitOps examples: the settings hold the scripts that are tested, and the folders say what they claim."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml
from gitops.argo import HealthCheck, script
from gitops.kstatus import Kstatus, kstatus
from gitops.situations import every_deployment, every_model

from flash_api import names
from flash_api.manifest import parse_manifests
from flash_operator.checks import refusal

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples" / "gitops"
FILES = sorted(EXAMPLES.rglob("*.yaml"))

Manifest = dict[str, Any]


def documents(file: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all((EXAMPLES / file).read_text()) if each]


def test_argo_cds_settings_hold_the_scripts() -> None:
    (settings,) = documents("argocd/argocd-cm.yaml")
    for kind in (names.KIND, names.MODEL_KIND):
        assert settings["data"][f"resource.customizations.health.{names.GROUP}_{kind}"] == script(kind)


def test_nothing_is_to_be_ignored() -> None:
    applications = documents("argocd/operator.yaml") + documents("argocd/deployments.yaml")
    assert all("ignoreDifferences" not in each["spec"] for each in applications)


def test_what_kustomize_makes_is_right_and_served() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(EXAMPLES / "deployments" / "production")], capture_output=True, text=True, check=True
    )
    ours = "---\n".join(each for each in done.stdout.split("---\n") if names.API_VERSION in each)
    parsed = parse_manifests(ours)
    assert parsed.problems == ()
    (deployment,) = parsed.deployments
    assert refusal(deployment.spec) is None
    assert deployment.metadata.namespace == "ai"
    assert deployment.spec.engine.autoscaling is not None


def test_paths_that_are_named_are_there() -> None:
    for file in FILES:
        for path in re.findall(r"(?:path|chart): \.?/?((?:charts|examples)/[\w/-]+)", file.read_text()):
            assert (REPOSITORY / path).is_dir(), (file, path)


def test_the_chart_gets_values_that_it_knows() -> None:
    schema = (REPOSITORY / "charts" / "flashplane" / "values.schema.json").read_text()
    (application,) = documents("argocd/operator.yaml")
    release = next(each for each in documents("flux/operator/release.yaml") if each["kind"] == "HelmRelease")
    assert application["spec"]["source"]["helm"]["valuesObject"] == release["spec"]["values"]
    assert all(f'"{key}"' in schema for key in ("metricsNamespace", "podMonitor", "alerts", "dashboard"))


def checks() -> dict[str, Manifest]:
    deployments = next(d for d in documents("flux/deployments.yaml") if "healthCheckExprs" in d["spec"])
    return {each["kind"]: each for each in deployments["spec"]["healthCheckExprs"]}


def flux(rules: Manifest, manifest: Manifest) -> Kstatus:
    """As kustomize-controller evaluates them: in progress, else failed, else current, else in progress."""
    context = {"status": manifest.get("status") or {}, "metadata": manifest["metadata"], "spec": manifest["spec"]}
    for field, verdict in (
        ("inProgress", Kstatus.IN_PROGRESS),
        ("failed", Kstatus.FAILED),
        ("current", Kstatus.CURRENT),
    ):
        if cel.evaluate(rules[field], context):
            return verdict
    return Kstatus.IN_PROGRESS


@pytest.mark.parametrize(
    ("kind", "every"), [("FlashDeployment", every_deployment), ("FlashModel", every_model)], ids=str
)
def test_flux_agrees_with_argo_cd_and_kstatus(kind: str, every: Any) -> None:
    rules, health_of = checks()[kind], HealthCheck(kind)
    for manifest in every():
        verdict, (health, _) = flux(rules, manifest), health_of(manifest)
        if verdict is not kstatus(manifest):
            assert (verdict, kstatus(manifest)) == (Kstatus.CURRENT, Kstatus.IN_PROGRESS)
            assert health in ("Healthy", "Suspended"), "kstatus waits for what somebody wants to be so"
        assert (verdict is Kstatus.FAILED) == (health == "Degraded")


def test_flux_waits_for_an_object_that_nobody_has_looked_at() -> None:
    new = {"metadata": {"generation": 1}, "spec": {}}
    assert kstatus({**new}) is Kstatus.CURRENT
    assert flux(checks()["FlashDeployment"], new) is Kstatus.IN_PROGRESS
