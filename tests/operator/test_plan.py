"""The plan, as a whole (golden file) and by its promises."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_deployment

from flash_api import names
from flash_api.config.engine import EngineConfig
from flash_api.config.gateway import GatewayConfig
from flash_api.manifest import parse_manifests
from flash_operator.plan import PlanSettings, plan
from flash_operator.rendering import as_yaml

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "quickstart.yaml"
SETTINGS = PlanSettings()


def objects(**spec: Any) -> dict[str, Any]:
    """By `Kind/name`, with the hash cut from a ConfigMap's name."""
    found = plan(a_deployment(**spec), SETTINGS).objects
    return {re.sub(r"-[0-9a-f]{10}$", "", f"{o['kind']}/{o['metadata']['name']}"): o for o in found}


def pod(role: str, **spec: Any) -> dict[str, Any]:
    return dict(objects(**spec)[f"Deployment/chat-{role}"]["spec"]["template"]["spec"])


def config(role: str, **spec: Any) -> dict[str, Any]:
    return dict(json.loads(objects(**spec)[f"ConfigMap/chat-{role}"]["data"][f"{role}.json"]))


def test_the_plan_of_the_quickstart_is_the_golden_one() -> None:
    """Made by: flash plan -f examples/quickstart.yaml > tests/operator/golden/quickstart.yaml"""
    (deployment,) = parse_manifests((ROOT / "examples" / "quickstart.yaml").read_text()).deployments
    assert as_yaml(plan(deployment, SETTINGS).objects) == GOLDEN.read_text()


def test_gateways_know_the_regions_that_requests_must_not_leave() -> None:
    assert config("gateway", residency={"regions": ["eu-west", "eu-central"]})["regions"] == ["eu-central", "eu-west"]
    for spec in ({}, {"residency": {"regions": ["eu"], "mode": "Audit"}}):
        assert "regions" not in config("gateway", **spec)


def test_the_printed_plan_is_the_plan() -> None:
    found = plan(a_deployment(), SETTINGS).objects
    assert list(yaml.safe_load_all(as_yaml(found))) == list(found)


def test_equal_deployments_give_byte_equal_plans() -> None:
    assert json.dumps(objects()) == json.dumps(objects())


def test_every_object_is_labelled_and_owned() -> None:
    for planned in objects().values():
        assert planned["metadata"]["labels"][names.LABEL_DEPLOYMENT] == "chat"
        assert planned["metadata"]["labels"][names.LABEL_MANAGED_BY] == names.MANAGED_BY
        (owner,) = planned["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("uid-1", True, True)


def test_services_select_the_pods_of_their_role() -> None:
    found = objects()
    for role in ("engine", "gateway"):
        selector = found[f"Service/chat-{role}"]["spec"]["selector"]
        labels = found[f"Deployment/chat-{role}"]["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()


def test_the_engine_service_resolves_to_every_engine() -> None:
    assert objects()["Service/chat-engine"]["spec"]["clusterIP"] == "None"


def test_the_endpoint_port_leads_to_the_gateways_port() -> None:
    (port,) = objects(endpoint={"port": 9000})["Service/chat-gateway"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (9000, names.PORT_GATEWAY)


def test_configurations_are_what_the_runtime_reads() -> None:
    cache = {"memory": "1Gi", "dtype": "int8"}
    engine = EngineConfig.model_validate(config("engine", engine={"kvCache": cache}))
    gateway = GatewayConfig.model_validate(config("gateway"))
    assert (engine.kv_cache_bytes, engine.kv_cache_dtype) == (1024**3, "int8")
    assert (engine.served_model_name, gateway.served_model_name) == ("chat", "chat")
    assert gateway.engine == "chat-engine.default.svc:8001"


def test_a_changed_configuration_is_a_new_object_and_a_new_revision() -> None:
    before, after = objects(), objects(engine={"maxConcurrentRequests": 5})
    for kind in ("ConfigMap", "Deployment"):
        assert before[f"{kind}/chat-engine"] != after[f"{kind}/chat-engine"]
        assert before[f"{kind}/chat-gateway"] == after[f"{kind}/chat-gateway"]
    assert before["ConfigMap/chat-engine"]["metadata"]["name"] != after["ConfigMap/chat-engine"]["metadata"]["name"]


def test_replicas_alone_start_no_new_revision() -> None:
    assert pod("engine", engine={"replicas": 5}) == pod("engine", engine={"replicas": 1})


def test_the_pull_gets_what_the_model_says() -> None:
    model = {"source": "file:///m.gguf", "sha256": "0" * 64}
    (pull,) = pod("gateway", model=model)["initContainers"]
    assert pull["command"] == ["flash-pull"]
    assert pull["args"] == [
        *("--source", "file:///m.gguf", "--variant", "Lite", "--sha256", "0" * 64),
        *("--to", names.DIR_MODELS, "--text-only"),
    ]
    assert "--text-only" not in pod("engine", model=model)["initContainers"][0]["args"]


@pytest.mark.parametrize("role", ["engine", "gateway"])
def test_pods_keep_to_the_restricted_profile(role: str) -> None:
    found = pod(role)
    assert found["automountServiceAccountToken"] is False
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*found["initContainers"], *found["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    assert {next(iter(v.keys() - {"name"})) for v in found["volumes"]} <= {"configMap", "emptyDir", "secret"}


@pytest.mark.parametrize("role", ["engine", "gateway"])
def test_every_mount_has_its_volume_and_every_volume_is_mounted(role: str) -> None:
    found = pod(role, gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}})
    containers = (*found["initContainers"], *found["containers"])
    assert {m["name"] for c in containers for m in c["volumeMounts"]} == {v["name"] for v in found["volumes"]}


def test_requests_equal_limits_in_the_form_that_the_api_stores() -> None:
    found = pod("engine", engine={"resources": {"cpu": "1000m", "memory": "1.5Gi"}})
    for container in (*found["initContainers"], *found["containers"]):
        assert container["resources"]["requests"] == {"cpu": "1", "memory": "1536Mi"}
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert "resources" not in pod("engine")["containers"][0]


def test_api_keys_are_mounted_where_the_gateway_reads_them() -> None:
    spec = {"gateway": {"auth": {"apiKeysSecretRef": {"name": "keys", "key": "mine"}}}}
    found = pod("gateway", **spec)
    volume = next(v for v in found["volumes"] if v["name"] == "api-keys")
    (mount,) = (m for m in found["containers"][0]["volumeMounts"] if m["name"] == "api-keys")
    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "mine", "path": "api-keys"}]}
    assert f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}" == names.FILE_API_KEYS
    assert mount["readOnly"] is True
    assert config("gateway", **spec)["api_keys_file"] == names.FILE_API_KEYS
    assert config("gateway")["api_keys_file"] is None


def test_pods_may_finish_their_streams() -> None:
    spec = {"gateway": {"limits": {"requestTimeoutSeconds": 1200}}}
    assert config("engine", **spec)["shutdown_seconds"] == config("gateway", **spec)["drain_seconds"] == 1200
    for role in ("engine", "gateway"):
        unrouted = pod(role)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod(role, **spec)["terminationGracePeriodSeconds"] > 1200 + unrouted


def test_a_node_does_not_wait_for_the_longest_request_for_ever() -> None:
    spec = {"gateway": {"limits": {"requestTimeoutSeconds": 86_400}}}
    assert config("engine", **spec)["shutdown_seconds"] == 3600
    EngineConfig.model_validate(config("engine", **spec))


@pytest.mark.parametrize(("suspend", "expected"), [(False, 4), (True, 0)])
def test_what_autoscaling_decided_takes_the_place_of_the_spec_unless_it_is_suspended(
    suspend: bool, expected: int
) -> None:
    objects = plan(a_deployment(suspend=suspend), SETTINGS, engine_replicas=4).objects
    engine = next(o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", "chat-engine"))
    assert engine["spec"]["replicas"] == expected


@pytest.mark.parametrize(
    ("surge", "engine", "gateway"), [(None, (0, 1), (0, 1)), (1, (0, 1), (0, 1)), (0, (1, 0), (0, 1))]
)
def test_a_rollout_adds_before_it_removes_unless_engines_have_no_room(
    surge: int | None, engine: tuple[int, int], gateway: tuple[int, int]
) -> None:
    found = objects(**({} if surge is None else {"rollout": {"surge": surge}}))
    for role, (unavailable, more) in (("engine", engine), ("gateway", gateway)):
        rolling = found[f"Deployment/chat-{role}"]["spec"]["strategy"]["rollingUpdate"]
        assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (unavailable, more)


def test_a_rollout_has_the_deadline_of_the_spec_and_pauses_where_it_says_so() -> None:
    spec = objects(rollout={"paused": True, "progressDeadlineSeconds": 90})["Deployment/chat-gateway"]["spec"]
    assert (spec["paused"], spec["progressDeadlineSeconds"]) == (True, 90)
    unset = objects()["Deployment/chat-engine"]["spec"]
    assert (unset.get("paused"), unset["progressDeadlineSeconds"]) == (None, 1800)


def test_pausing_and_suspending_start_no_new_revision() -> None:
    for role in ("engine", "gateway"):
        assert pod(role) == pod(role, rollout={"paused": True}) == pod(role, suspend=True)


def test_a_suspended_deployment_keeps_every_object_and_no_pod() -> None:
    found = objects(suspend=True, engine={"replicas": 3})
    assert [found[f"Deployment/chat-{role}"]["spec"]["replicas"] for role in ("engine", "gateway")] == [0, 0]
    assert found.keys() == objects().keys()


def test_no_liveness_probe_depends_on_another_pod() -> None:
    assert pod("gateway")["containers"][0]["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert "exec" in pod("engine")["containers"][0]["livenessProbe"]


def test_the_longest_name_gives_valid_names() -> None:
    for planned in plan(a_deployment("a" * 40, gateway={"replicas": 2}), SETTINGS).objects:
        assert len(planned["metadata"]["name"]) <= 63


def test_no_zero_value_is_planned_that_the_api_drops() -> None:
    """The API server omits false, 0 and empty text in most places: written, they would differ at each pass."""
    kept = {
        "automountServiceAccountToken",
        "enableServiceLinks",
        "allowPrivilegeEscalation",
        "maxUnavailable",
        "maxSurge",
        "emptyDir",
        "podSelector",
        "namespaceSelector",
        # Written so that nobody else's list stands in its place; the comparison knows that it is not stored.
        "egress",
    }

    def check(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                check(inner, name)
        elif isinstance(value, list):
            for inner in value:
                check(inner, key)
        assert value or key in kept, key

    for planned in objects().values():
        check(planned, "")


@pytest.mark.parametrize("role", ["engine", "gateway"])
def test_the_token_of_a_source_is_a_file_that_only_the_pull_sees(role: str) -> None:
    ref = {"name": "hub-token", "key": "mine"}
    found = pod(role, model={"source": "hf://a/b", "credentialsSecretRef": ref})
    (volume,) = (v for v in found["volumes"] if v["name"] == "source-token")
    assert volume["secret"] == {"secretName": "hub-token", "items": [{"key": "mine", "path": "token"}]}
    (pull,) = found["initContainers"]
    (mount,) = (m for m in pull["volumeMounts"] if m["name"] == "source-token")
    assert mount["readOnly"]
    told = {entry["name"]: entry["value"] for entry in pull["env"]}
    assert told["FLASHPLANE_TOKEN_FILE"] == f"{mount['mountPath']}/token"
    assert all(m["name"] != "source-token" for entry in found["containers"] for m in entry["volumeMounts"])


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("pvc://weights/olmoe/1b", "file:///var/lib/flashplane/source/olmoe/1b"),
        ("pvc://weights", "file:///var/lib/flashplane/source"),
        ("pvc://weights/", "file:///var/lib/flashplane/source"),
    ],
)
def test_a_claim_is_a_read_only_folder_of_the_pull(uri: str, path: str) -> None:
    found = pod("engine", model={"source": uri})
    (volume,) = (v for v in found["volumes"] if v["name"] == "source")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    (pull,) = found["initContainers"]
    assert pull["args"][:2] == ["--source", path]
    assert {"name": "source", "mountPath": "/var/lib/flashplane/source", "readOnly": True} in pull["volumeMounts"]
    assert all(m["name"] != "source" for entry in found["containers"] for m in entry["volumeMounts"])
