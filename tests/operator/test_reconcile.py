"""Trajectories of the loop on a cluster in a dict."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from builders import a_manifest

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import ClusterError, Forbidden, Key, Manifest
from flash_operator.observation import ProbeResult
from flash_operator.plan import PlanSettings
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.steady import Steady

KEY = Key("default", "chat")
ENGINE, GATEWAY = Key("default", "chat-engine"), Key("default", "chat-gateway")
SETTINGS = ReconcileSettings()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def answering(url: str) -> ProbeResult:
    assert url == "http://chat-gateway.default.svc:8080/readyz"
    return ProbeResult(ok=True, message="")


async def run(cluster: Any, probe: Any = answering) -> Outcome:
    return await reconcile(cluster, KEY, probe=probe, now=lambda: NOON, settings=SETTINGS)


def a_cluster(**spec: Any) -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.create(a_manifest(**spec))
    return cluster


def controllers_act(cluster: MemoryCluster) -> bool:
    """What the deployment controller and the kubelets do: every wanted pod is there, new and ready.

    Whether there was anything to do.
    """
    before = cluster.contents()

    def settle(manifest: dict[str, Any]) -> None:
        wanted = manifest["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), wanted)
        manifest["status"] = {"observedGeneration": manifest["metadata"]["generation"], **counts}

    for key in (ENGINE, GATEWAY):
        if cluster.get("Deployment", key) is not None:
            cluster.edit("Deployment", key, settle)
    return cluster.contents() != before


async def converge(cluster: MemoryCluster, probe: Any = answering) -> Outcome:
    for _ in range(10):
        outcome = await run(cluster, probe)
        if not controllers_act(cluster) and outcome.writes == 0:
            break
    return outcome


def user_changes(cluster: MemoryCluster, **spec: Any) -> None:
    cluster.edit(names.KIND, KEY, lambda manifest: manifest.update(spec={**manifest["spec"], **spec}))


def ready(outcome: Outcome) -> str:
    condition = next(c for c in outcome.status["conditions"] if c["type"] == "Ready")
    return f"{condition['status']} {condition['reason']}"


async def test_a_new_deployment_is_applied_in_the_order_of_the_plan_and_then_ready() -> None:
    cluster = a_cluster()
    first = await run(cluster)
    kinds = [write.split()[1].split("/")[0] for write in cluster.writes if write.startswith("apply")]
    before = ("ConfigMap", "ServiceAccount", "NetworkPolicy", "Service")
    assert kinds == [kind for kind in (*before, "Deployment") for _ in range(2)]
    assert ready(first) == "False EnginesStarting"
    controllers_act(cluster)
    assert ready(await run(cluster)) == "True Serving"


async def test_an_idle_deployment_is_never_written() -> None:
    cluster = a_cluster()
    await converge(cluster)
    cluster.writes.clear()
    for _ in range(5):
        assert (await run(cluster)).writes == 0
    assert cluster.writes == []


async def test_what_came_of_the_first_objects_is_reported_by_the_pass_after() -> None:
    cluster = a_cluster()
    first = await run(cluster)
    assert (first.unreported, first.status_written, len(first.applied)) == (True, False, 10)
    second = await run(cluster)
    assert (second.unreported, second.status_written, second.applied) == (False, True, ())


async def test_a_refusal_is_reported_at_once() -> None:
    cluster = a_cluster(model={"source": "http://example.com/model.gguf"})
    outcome = await run(cluster)
    assert (outcome.unreported, outcome.status_written) == (False, True)


async def test_only_a_settled_deployment_that_depends_on_nothing_unwatched_is_steady() -> None:
    outcome = await converge(a_cluster())
    assert outcome.steady == Steady("http://chat-gateway.default.svc:8080/readyz", None)
    assert (await run(a_cluster())).steady is None
    assert (await converge(a_cluster(engine={"autoscaling": {"maxReplicas": 2}}))).steady is None
    resident = a_cluster(residency=EU)
    resident.regions = {"n1": "eu"}
    assert (await converge(resident)).steady is None


async def test_the_endpoint_is_asked_only_once_pods_are_ready() -> None:
    async def never(url: str) -> ProbeResult:
        raise AssertionError(f"asked {url}")

    assert (await run(a_cluster(), never)).status["endpoint"]


async def test_a_silent_endpoint_is_not_ready() -> None:
    async def silent(url: str) -> ProbeResult:
        return ProbeResult(ok=False, message=f"GET {url} answered 503: no engine")

    cluster = a_cluster()
    await converge(cluster)
    outcome = await run(cluster, silent)
    assert ready(outcome) == "False EndpointSilent"
    assert outcome.requeue_after_seconds == SETTINGS.waiting_seconds


async def test_an_edit_reaches_the_children_and_only_those_it_concerns() -> None:
    cluster = a_cluster(engine={"replicas": 2})
    await converge(cluster)
    cluster.writes.clear()
    user_changes(cluster, engine={"replicas": 3})
    await converge(cluster)
    assert [write for write in cluster.writes if "status" not in write] == ["apply Deployment/chat-engine"]
    assert cluster.get("Deployment", ENGINE)["spec"]["replicas"] == 3


async def test_a_former_configuration_stays_until_its_pods_are_gone() -> None:
    cluster = a_cluster()
    await converge(cluster)
    former = {name for name in cluster.contents() if name.startswith("ConfigMap/chat-engine")}
    user_changes(cluster, engine={"maxConcurrentRequests": 3})
    await run(cluster)
    await run(cluster)  # the new pods are not up: the controllers have not acted
    assert former < cluster.contents().keys()
    await converge(cluster)
    assert not former & cluster.contents().keys()


async def test_removing_the_keys_removes_their_volume() -> None:
    cluster = a_cluster(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}})
    await converge(cluster)
    user_changes(cluster, gateway={})
    await converge(cluster)
    pod = cluster.get("Deployment", GATEWAY)["spec"]["template"]["spec"]
    assert "api-keys" not in str(pod)


@pytest.mark.parametrize(
    "name", ["Deployment/chat-engine", "Deployment/chat-gateway", "Service/chat-engine", "ConfigMap"]
)
async def test_a_deleted_child_comes_back(name: str) -> None:
    cluster = a_cluster()
    await converge(cluster)
    before = cluster.contents()
    for child in [child for child in before if child.startswith(name)]:
        kind, _, child_name = child.partition("/")
        cluster.remove(kind, Key("default", child_name))
    await converge(cluster)
    assert cluster.contents() == before


async def test_drift_is_taken_back_and_additions_stay() -> None:
    cluster = a_cluster()
    await converge(cluster)

    def meddle(manifest: dict[str, Any]) -> None:
        manifest["spec"]["replicas"] = 7
        manifest["metadata"]["labels"]["team"] = "search"

    cluster.edit("Deployment", ENGINE, meddle)
    await converge(cluster)
    found = cluster.get("Deployment", ENGINE)
    assert (found["spec"]["replicas"], found["metadata"]["labels"]["team"]) == (1, "search")


async def test_a_refused_spec_is_stalled_and_tears_nothing_down() -> None:
    cluster = a_cluster()
    await converge(cluster)
    before = cluster.contents()
    user_changes(cluster, model={"source": "http://host/m.gguf"})
    outcome = await run(cluster)
    assert ready(outcome) == "False SourceNotServed"
    assert (outcome.applied, outcome.deleted, outcome.requeue_after_seconds) == ((), (), None)
    assert {k: v for k, v in cluster.contents().items() if "FlashDeployment" not in k} == {
        k: v for k, v in before.items() if "FlashDeployment" not in k
    }


async def test_a_stored_spec_that_breaks_a_rule_is_told_with_field_and_value() -> None:
    outcome = await run(a_cluster(engine={"replicas": "many"}))
    assert ready(outcome) == "False InvalidSpec"
    message = outcome.status["conditions"][0]["message"]
    assert 'spec.engine.replicas ("many") must be an integer' in message


async def test_a_stored_field_from_a_newer_release_is_ignored() -> None:
    cluster = a_cluster(engine={"replicas": 2, "fromTheFuture": 1})
    await converge(cluster)
    assert cluster.get("Deployment", ENGINE)["spec"]["replicas"] == 2


async def test_an_object_of_someone_else_is_left_alone_and_named_in_the_status() -> None:
    cluster = a_cluster()
    cluster.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat-gateway"}, "spec": {"mine": True}}
    )
    outcome = await run(cluster)
    assert ready(outcome) == "False ApplyFailed"
    assert outcome.error is not None
    assert "Service chat-gateway exists" in outcome.error
    assert cluster.get("Service", GATEWAY)["spec"] == {"mine": True}


async def test_a_namesake_never_inherits_children() -> None:
    cluster = a_cluster()
    await converge(cluster)
    orphan = cluster.get("Deployment", ENGINE)
    cluster.remove(names.KIND, KEY)
    cluster.create({**orphan, "status": {}})  # the garbage collector has not come by yet
    cluster.create(a_manifest())
    assert ready(await run(cluster)) == "False ApplyFailed"


async def test_a_deleted_deployment_ends_the_loop_and_its_children_go() -> None:
    cluster = a_cluster()
    await converge(cluster)
    cluster.remove(names.KIND, KEY)
    assert (await run(cluster)).gone
    assert cluster.contents() == {}


async def test_a_deployment_that_is_being_deleted_is_not_touched() -> None:
    cluster = a_cluster()
    cluster.edit(names.KIND, KEY, lambda m: m["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert (await run(cluster)).gone
    assert cluster.writes == []


class Crashing:
    """A cluster whose client dies right after its n-th write: what a kill of the operator looks like from outside."""

    def __init__(self, inner: MemoryCluster, writes: int) -> None:
        self._inner = inner
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, manifest: Manifest) -> None:
        await self._inner.apply(manifest)
        self._count()

    async def delete(self, manifest: Manifest) -> None:
        await self._inner.delete(manifest)
        self._count()

    async def write_status(self, key: Key, status: Manifest) -> None:
        await self._inner.write_status(key, status)
        self._count()

    def _count(self) -> None:
        self._writes -= 1
        if self._writes == 0:
            raise KilledError


class KilledError(Exception):
    """The operator process is gone."""


def create(cluster: MemoryCluster) -> None:
    cluster.create(a_manifest())


def change(cluster: MemoryCluster) -> None:
    user_changes(cluster, engine={"replicas": 2, "maxConcurrentRequests": 4}, endpoint={"port": 9000})


async def ready_on_any_port(url: str) -> ProbeResult:
    del url
    return ProbeResult(ok=True, message="")


async def story(cluster: MemoryCluster, chapter: Callable[[MemoryCluster], None], crash_after: int) -> bool:
    """Play one chapter with a crash after the n-th write, then go on. False = there were fewer writes than that."""
    chapter(cluster)
    crashing = Crashing(cluster, crash_after)
    crashed = False
    for _ in range(12):
        try:
            outcome = await run(crashing, ready_on_any_port)
        except KilledError:
            crashed = True
            continue
        if not controllers_act(cluster) and outcome.writes == 0:
            break
    return crashed


@pytest.mark.parametrize("crash_after", range(1, 12))
async def test_a_crash_after_any_write_ends_in_the_same_state(crash_after: int) -> None:
    undisturbed, disturbed = MemoryCluster(), MemoryCluster()
    for chapter in (create, change):
        await story(undisturbed, chapter, crash_after=10_000)
        await story(disturbed, chapter, crash_after)
        assert disturbed.contents() == undisturbed.contents()


async def test_the_crash_test_reaches_every_write_of_a_creation() -> None:
    assert await story(MemoryCluster(), create, crash_after=8)


async def test_an_api_that_cannot_be_read_is_the_callers_business() -> None:
    class Down(MemoryCluster):
        async def deployment(self, key: Key) -> Manifest | None:
            raise ClusterError(f"no answer about {key}")

    with pytest.raises(ClusterError):
        await run(Down())


class Blindfolded:
    """A cluster whose children may not be read."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        raise Forbidden("the Kubernetes API answered 403: services is forbidden")


async def test_children_that_may_not_be_read_are_told_in_the_status_and_nothing_is_touched() -> None:
    cluster = a_cluster()
    served = (await converge(cluster)).status
    before = cluster.writes.copy()
    outcome = await run(Blindfolded(cluster))
    conditions = {c["type"]: (c["status"], c["reason"]) for c in outcome.status["conditions"]}
    assert conditions == {
        "Ready": ("Unknown", "ReadFailed"),
        "Reconciling": ("True", "ReadFailed"),
        "Stalled": ("False", "Progressing"),
        "Accepted": ("True", "SpecAccepted"),
        "ModelReady": ("Unknown", "ReadFailed"),
        "EnginesReady": ("Unknown", "ReadFailed"),
        "EndpointReady": ("Unknown", "ReadFailed"),
    }
    assert "services is forbidden" in str(outcome.error)
    kept = ("engine", "gateway", "replicas", "endpoint", "ignoredFields")
    assert {field: outcome.status[field] for field in kept} == {field: served[field] for field in kept}
    assert cluster.writes == [*before, "status chat"]
    assert not (await run(Blindfolded(cluster))).status_written
    assert (await run(cluster)).status["conditions"] == served["conditions"]


async def test_a_refused_spec_is_stalled_whether_or_not_its_children_can_be_read() -> None:
    outcome = await run(Blindfolded(a_cluster(model={"source": "http://host/m.gguf"})))
    conditions = {c["type"]: (c["status"], c["reason"]) for c in outcome.status["conditions"]}
    assert conditions["Stalled"] == ("True", "SourceNotServed")
    assert conditions["Ready"] == ("False", "SourceNotServed")
    assert conditions["Reconciling"][0] == "False"


async def test_a_suspended_deployment_is_at_rest_and_comes_back() -> None:
    cluster = a_cluster()
    await converge(cluster)
    before = {name for name in cluster.contents() if not name.startswith(names.KIND)}
    user_changes(cluster, suspend=True)
    outcome = await converge(cluster)
    assert ready(outcome) == "False Suspended"
    assert {name for name in cluster.contents() if not name.startswith(names.KIND)} == before
    user_changes(cluster, suspend=False)
    assert ready(await converge(cluster)) == "True Serving"


async def test_a_budget_comes_with_the_second_replica_and_goes_with_it() -> None:
    cluster = a_cluster()
    await converge(cluster)
    user_changes(cluster, engine={"replicas": 2})
    await converge(cluster)
    assert "PodDisruptionBudget/chat-engine" in cluster.contents()
    user_changes(cluster, engine={"replicas": 1})
    await converge(cluster)
    assert "PodDisruptionBudget/chat-engine" not in cluster.contents()


async def test_a_door_that_someone_opened_is_shut_again() -> None:
    cluster = a_cluster()
    await converge(cluster)
    key = Key("default", "chat-gateway")
    cluster.edit("NetworkPolicy", key, lambda m: m["spec"]["ingress"].append({"from": [{"namespaceSelector": {}}]}))
    assert (await run(cluster)).applied == ("NetworkPolicy/chat-gateway",)
    assert (await run(cluster)).writes == 0


EU = {"regions": ["eu"]}


def a_pod(name: str, node: str, **metadata: Any) -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: "chat"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels, **metadata},
        "spec": {"nodeName": node},
    }


def by_a_replica_set() -> dict[str, Any]:
    return {"ownerReferences": [{"kind": "ReplicaSet", "name": "chat-engine-1", "uid": "rs", "controller": True}]}


async def test_no_node_in_the_regions_is_why_it_is_not_ready() -> None:
    cluster = a_cluster(residency=EU)
    cluster.regions = {"n1": "us"}
    outcome = await run(cluster)
    assert ready(outcome) == "False RegionUnavailable"
    assert "Deployment/chat-engine" in outcome.applied, "a node may be brought by a pod that waits for it"


async def test_a_pod_whose_node_has_come_to_be_elsewhere_is_stopped() -> None:
    cluster = a_cluster(residency=EU)
    cluster.regions = {"n1": "eu"}
    cluster.create(a_pod("chat-engine-1-a", "n1", **by_a_replica_set()))
    cluster.create(a_pod("by-hand", "n1"))
    outcome = await converge(cluster)
    assert ready(outcome) == "True Serving"
    assert (outcome.status["region"], outcome.status["residency"]["compliantPods"]) == ("eu", 2)
    cluster.regions = {"n1": "us"}
    outcome = await run(cluster)
    assert outcome.deleted == ("Pod/chat-engine-1-a",)
    assert ready(outcome) == "False OutsideRegion"
    stalled = next(c for c in outcome.status["conditions"] if c["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "OutsideRegion")
    assert len(outcome.status["residency"]["violations"]) == 2


async def test_an_audit_tells_and_stops_nothing() -> None:
    cluster = a_cluster(residency={**EU, "mode": "Audit"})
    cluster.regions = {"n1": "us"}
    cluster.create(a_pod("chat-engine-1-a", "n1", **by_a_replica_set()))
    outcome = await converge(cluster)
    assert ready(outcome) == "True Serving"
    conditions = {c["type"]: (c["status"], c["reason"]) for c in outcome.status["conditions"]}
    assert conditions["ResidencyCompliant"] == ("False", "OutsideRegion")
    assert cluster.get("Pod", Key("default", "chat-engine-1-a")) is not None


async def test_an_operator_that_may_not_list_nodes_says_so_and_serves() -> None:
    class WithoutNodes(MemoryCluster):
        async def node_regions(self) -> Any:
            raise Forbidden("nodes is forbidden")

    cluster = WithoutNodes()
    cluster.create(a_manifest(residency=EU))
    outcome = await converge(cluster)
    assert ready(outcome) == "True Serving"
    found = next(c for c in outcome.status["conditions"] if c["type"] == "ResidencyCompliant")
    assert (found["status"], found["reason"]) == ("Unknown", "RegionUnknown")
    assert "nodes is forbidden" in found["message"]


async def test_a_network_that_is_known_to_enforce_no_policy_is_told() -> None:
    cluster = a_cluster()
    settings = ReconcileSettings(plan=PlanSettings(policy_enforced=False))
    outcome = await reconcile(cluster, KEY, probe=answering, now=lambda: NOON, settings=settings)
    assert outcome.status["ignoredFields"] == [
        "endpoint.visibility: this cluster's network does not enforce NetworkPolicy"
    ]


@pytest.mark.parametrize(
    ("told", "says"), [(True, "True PolicyEnforced"), (False, "False PolicyNotEnforced"), (None, None)]
)
async def test_the_status_claims_of_the_network_what_the_operator_was_told(told: bool | None, says: str | None) -> None:
    cluster = a_cluster()
    settings = ReconcileSettings(plan=PlanSettings(policy_enforced=told))
    await converge(cluster)
    outcome = await reconcile(cluster, KEY, probe=answering, now=lambda: NOON, settings=settings)
    found = [f"{c['status']} {c['reason']}" for c in outcome.status["conditions"] if c["type"] == "NetworkIsolated"]
    assert found == ([says] if says else [])
    assert ready(outcome) == "True Serving"


PUBLIC = {"visibility": "Public", "hostname": "chat.example.com", "gatewayRef": {"name": "edge"}}
KEYS = {"auth": {"apiKeysSecretRef": {"name": "keys"}}}
ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")


async def test_a_route_is_made_where_the_cluster_knows_the_kind_and_missed_where_it_does_not() -> None:
    cluster = a_cluster(endpoint=PUBLIC, gateway=KEYS)
    outcome = await converge(cluster)
    assert ready(outcome) == "False KindNotServed"
    cluster.kinds.add(ROUTE)
    outcome = await converge(cluster)
    assert ready(outcome) == "True Serving"
    assert outcome.status["endpoint"] == "https://chat.example.com/v1"
    assert "HTTPRoute/chat-gateway" in cluster.contents()
    user_changes(cluster, endpoint={})
    await converge(cluster)
    assert "HTTPRoute/chat-gateway" not in cluster.contents()


BALANCED = {"visibility": "Public", "tls": {"secretName": "chat-tls"}, "port": 443}


async def test_an_endpoint_is_ready_when_its_load_balancer_has_an_address() -> None:
    cluster, asked = a_cluster(endpoint=BALANCED, gateway=KEYS), []

    async def probe(url: str) -> ProbeResult:
        asked.append(url)
        return ProbeResult(ok=True, message="")

    outcome = await converge(cluster, probe)
    assert ready(outcome) == "False LoadBalancerPending"
    assert outcome.status.get("endpoint", "") == ""
    assert set(asked) == {"https://chat-gateway.default.svc:443/readyz"}
    address = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    cluster.edit("Service", Key("default", "chat-gateway"), lambda service: service.update(status=address))
    outcome = await converge(cluster, probe)
    assert ready(outcome) == "True Serving"
    assert outcome.status["endpoint"] == "https://203.0.113.9/v1"
    assert (await run(cluster, probe)).writes == 0


async def test_a_certificate_that_is_not_issued_is_why_the_endpoint_is_silent() -> None:
    issued = {"hostname": "chat.example.com", "tls": {"issuerRef": {"name": "letsencrypt"}}}
    cluster = a_cluster(endpoint=issued)

    async def silent(url: str) -> ProbeResult:
        return ProbeResult(ok=False, message="nobody listens")

    assert ready(await converge(cluster, silent)) == "False KindNotServed"
    cluster.kinds.add(("cert-manager.io/v1", "Certificate"))
    assert ready(await converge(cluster, silent)) == "False CertificatePending"
    user_changes(cluster, endpoint={})
    await converge(cluster)
    assert "Certificate/chat-gateway" not in cluster.contents()


async def test_a_pod_monitor_is_made_only_where_the_cluster_knows_the_kind() -> None:
    cluster = a_cluster()
    await converge(cluster)
    assert "PodMonitor/chat" not in cluster.contents()
    cluster.kinds.add(("monitoring.coreos.com/v1", "PodMonitor"))
    await converge(cluster)
    assert "PodMonitor/chat" in cluster.contents()
    user_changes(cluster, observability={"metrics": {"podMonitor": "Off"}})
    await converge(cluster)
    assert "PodMonitor/chat" not in cluster.contents()


async def test_what_matters_to_users_is_announced_once() -> None:
    cluster = a_cluster()
    await converge(cluster)
    user_changes(cluster, engine={"maxConcurrentRequests": 3})
    await converge(cluster)
    await run(cluster)
    assert [news.reason for news in cluster.news] == ["Serving", "RolledOut"]


async def test_the_revision_is_that_of_the_plan_that_is_applied_as_a_whole() -> None:
    cluster = a_cluster()
    first = (await converge(cluster)).status["appliedRevision"]
    user_changes(cluster, model={"source": "http://host/m.gguf"})
    assert (await converge(cluster)).status["appliedRevision"] == first
    user_changes(cluster, model={"source": "builtin://smollm2-135m-instruct"}, engine={"replicas": 3})
    assert (await converge(cluster)).status["appliedRevision"] not in ("", first)


def engine_pod(cluster: MemoryCluster, **status: Any) -> None:
    labels = names.pod_selector("chat", names.COMPONENT_ENGINE)
    meta = {"name": "chat-engine-1", "namespace": "default", "labels": labels}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})


async def test_a_crash_loop_is_why_a_deployment_is_not_ready() -> None:
    cluster = a_cluster()
    await run(cluster)
    died = {"terminated": {"exitCode": 3, "reason": "Error", "message": "error: digest mismatch\n"}}
    waits = {"waiting": {"reason": "CrashLoopBackOff"}}
    engine_pod(cluster, initContainerStatuses=[{"name": "pull", "restartCount": 1, "state": waits, "lastState": died}])
    outcome = await run(cluster)
    assert ready(outcome) == "False EnginesFailing"
    assert "container pull of pod chat-engine-1 ended with code 3: error: digest mismatch" in str(outcome.status)
    assert outcome.status["lastFailure"]["exitCode"] == 3
    assert (await run(cluster)).writes == 0


async def test_pods_that_may_not_be_read_leave_the_counts_standing() -> None:
    class WithoutPods:
        def __init__(self, cluster: MemoryCluster) -> None:
            self._cluster = cluster

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cluster, name)

        async def pods(self, key: Key) -> tuple[Manifest, ...]:
            raise Forbidden("pods is forbidden")

    cluster = a_cluster()
    await converge(cluster)
    assert ready(await run(WithoutPods(cluster))) == "True Serving"
