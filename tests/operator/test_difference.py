import copy
from typing import Any

import pytest
from builders import a_deployment

from flash_operator.difference import is_as_planned, superfluous
from flash_operator.plan import PlanSettings, plan

OBJECTS = plan(a_deployment(), PlanSettings()).objects
ENGINE = next(o for o in OBJECTS if o["kind"] == "Deployment" and o["metadata"]["name"] == "chat-engine")


def live() -> dict[str, Any]:
    """The engine Deployment as an API server gives it back: with defaults, versions and other people's fields."""
    found = copy.deepcopy(dict(ENGINE))
    found["metadata"] |= {
        "uid": "u",
        "resourceVersion": "7",
        "annotations": {**ENGINE["metadata"]["annotations"], "x": "y"},
    }
    pod = found["spec"]["template"]["spec"]
    pod["restartPolicy"] = "Always"
    pod["containers"].append({"name": "sidecar", "image": "mesh"})
    pod["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    found["status"] = {"readyReplicas": 1}
    return found


def test_what_others_add_is_no_difference() -> None:
    assert is_as_planned(live(), ENGINE)


@pytest.mark.parametrize(
    "drift",
    [
        lambda m: m["spec"].update(replicas=9),
        lambda m: m["spec"]["template"]["spec"]["containers"][0].update(image="other"),
        lambda m: m["spec"]["template"]["spec"]["containers"][0]["args"].append("--more"),
        lambda m: m["spec"]["template"]["spec"]["containers"].pop(0),
        lambda m: m["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot"),
        lambda m: m["metadata"]["labels"].pop("flashplane.dev/deployment"),
        lambda m: m["metadata"].update(ownerReferences=[]),
        lambda m: m["metadata"]["annotations"].pop("flashplane.dev/plan-hash"),
    ],
)
def test_each_change_to_what_is_ours_is_a_difference(drift: Any) -> None:
    changed = live()
    drift(changed)
    assert not is_as_planned(changed, ENGINE)


AT_HAND = plan(a_deployment(model={"source": "file:///models/m"}), PlanSettings()).objects
POLICY = next(o for o in AT_HAND if o["kind"] == "NetworkPolicy")


def live_policy() -> dict[str, Any]:
    """As stored: an empty list is not."""
    found = copy.deepcopy(dict(POLICY))
    found["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    assert found["spec"].pop("egress") == []
    return found


def test_a_stored_policy_is_as_planned() -> None:
    assert is_as_planned(live_policy(), POLICY)


@pytest.mark.parametrize(
    "drift",
    [
        lambda m: m["spec"]["ingress"].append({}),
        lambda m: m["spec"]["ingress"][0]["from"].append({"namespaceSelector": {}}),
        lambda m: m["spec"]["ingress"][0].pop("ports"),
        lambda m: m["spec"].update(egress=[{}]),
        lambda m: m["spec"]["policyTypes"].pop(),
        lambda m: m["metadata"]["labels"].pop("flashplane.dev/deployment"),
    ],
)
def test_a_policy_that_someone_added_to_is_a_difference(drift: Any) -> None:
    changed = live_policy()
    drift(changed)
    assert not is_as_planned(changed, POLICY)


def test_a_field_that_left_the_plan_is_a_difference() -> None:
    former = plan(a_deployment(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}}), PlanSettings()).objects
    assert not is_as_planned(former[-1], OBJECTS[-1])


def test_only_our_own_objects_are_superfluous() -> None:
    extra = {**OBJECTS[0], "metadata": {**OBJECTS[0]["metadata"], "name": "chat-engine-former"}}
    foreign = {**extra, "metadata": {**extra["metadata"], "ownerReferences": []}}
    going = {**extra, "metadata": {**extra["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert superfluous([*OBJECTS, extra], OBJECTS, "uid-1") == (extra,)
    assert superfluous([*OBJECTS, foreign, going], OBJECTS, "uid-1") == ()
    assert superfluous([extra], OBJECTS, "uid-2") == ()
