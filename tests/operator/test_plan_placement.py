"""Which nodes pods may run on, which account they have and how many a drain may take."""

from typing import Any

import pytest
from builders import a_deployment

from flash_api import names
from flash_operator.plan import PlanSettings, plan

REGION = "topology.kubernetes.io/region"


def planned(kind: str, **spec: Any) -> dict[str, dict[str, Any]]:
    found = [o for o in plan(a_deployment(**spec), PlanSettings()).objects if o["kind"] == kind]
    return {o["metadata"]["name"].removeprefix("chat-"): dict(o) for o in found}


def pod(role: str, **spec: Any) -> dict[str, Any]:
    return dict(planned("Deployment", **spec)[role]["spec"]["template"]["spec"])


@pytest.mark.parametrize("role", ["engine", "gateway"])
def test_pods_run_under_an_account_of_their_own_that_has_no_token(role: str) -> None:
    assert planned("ServiceAccount")[f"{role}"]["automountServiceAccountToken"] is False
    assert pod(role)["serviceAccountName"] == f"chat-{role}"
    assert pod(role)["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("spec", "roles"),
    [
        ({}, set()),
        ({"engine": {"replicas": 0}}, set()),
        ({"engine": {"replicas": 2}}, {"engine"}),
        ({"gateway": {"replicas": 3}}, {"gateway"}),
        ({"engine": {"replicas": 2}, "gateway": {"replicas": 2}}, {"engine", "gateway"}),
        ({"engine": {"replicas": 2}, "suspend": True}, set()),
    ],
)
def test_a_drain_takes_one_of_several_pods_and_is_never_blocked_by_the_only_one(
    spec: dict[str, Any], roles: set[str]
) -> None:
    budgets = planned("PodDisruptionBudget", **spec)
    assert budgets.keys() == roles
    for role, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"] == names.pod_selector("chat", role)


def test_pods_spread_over_zones_and_nodes_where_they_can() -> None:
    for role in ("engine", "gateway"):
        constraints = pod(role)["topologySpreadConstraints"]
        assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        assert {c["whenUnsatisfiable"] for c in constraints} == {"ScheduleAnyway"}
        assert all(c["labelSelector"]["matchLabels"] == names.pod_selector("chat", role) for c in constraints)


def test_the_spread_of_the_spec_takes_the_place_of_the_usual_one() -> None:
    spread = {"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}
    (constraint,) = pod("engine", placement={"topologySpread": [spread]})["topologySpreadConstraints"]
    assert {key: constraint[key] for key in spread} == spread


def test_placement_is_handed_on_in_the_words_of_the_pod_api() -> None:
    toleration = {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}
    placement = {
        "nodeSelector": {"disk": "ssd", "arch": "amd64"},
        "tolerations": [toleration],
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
    }
    engine, gateway = (pod(role, placement=placement) for role in ("engine", "gateway"))
    for key in ("nodeSelector", "tolerations", "priorityClassName"):
        assert engine[key] == gateway[key] == placement[key]
    assert (engine["runtimeClassName"], gateway.get("runtimeClassName")) == ("nvidia", None)


def test_regions_are_a_condition_for_every_pod() -> None:
    for role in ("engine", "gateway"):
        affinity = pod(role, residency={"regions": ["eu-west", "eu-central"]})["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term == {"matchExpressions": [{"key": REGION, "operator": "In", "values": ["eu-central", "eu-west"]}]}


def test_regions_that_are_only_audited_are_a_wish() -> None:
    affinity = pod("engine", residency={"regions": ["eu"], "mode": "Audit"})["affinity"]["nodeAffinity"]
    assert affinity.keys() == {"preferredDuringSchedulingIgnoredDuringExecution"}


def test_pods_that_nothing_was_said_about_may_run_anywhere() -> None:
    assert not {"affinity", "nodeSelector", "tolerations"} & pod("engine").keys()
