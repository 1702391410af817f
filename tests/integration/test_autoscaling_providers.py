"""A real HorizontalPodAutoscaler follows what the operator decided, by the API that the operator serves for it.

KEDA itself is not here: what it is given to do the same is.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from autoscaled_world import AutoscaledWorld
from builders import a_manifest
from control_plane import ControlPlane
from cryptography import x509
from external_metrics_plugin import API_SERVICE, SERVICE, ExternalMetricsApi
from helm_plugin import NAMESPACE, Helm
from hermetic_errors import KubectlFailed
from operator_in_process import PaperGateways
from operator_process import Kubectl, eventually

from flash_api import names
from flash_operator.cluster.kubernetes import KubernetesApi
from flash_operator.external_metrics.serving import Endpoint, ExternalMetrics
from flash_operator.reconcile import Outcome

TRACE = (1, 60, 90, 5, 5, 5, 5, 5)
OPTIONAL = Path(__file__).parent / "manifests" / "optional-kinds.yaml"


@pytest.fixture
async def api(operator_account: Path) -> AsyncIterator[KubernetesApi]:
    connected = await KubernetesApi.connect(str(operator_account))
    yield connected
    await connected.aclose()


def serving(api: KubernetesApi, port: int) -> ExternalMetrics:
    return ExternalMetrics(api, Endpoint("127.0.0.1", port, SERVICE, NAMESPACE), lambda: datetime.now(UTC))


@asynccontextmanager
async def served(api: KubernetesApi, port: int) -> AsyncIterator[None]:
    metrics = serving(api, port)
    await metrics.renew()
    try:
        yield
    finally:
        await metrics.aclose()


class World(AutoscaledWorld):
    """One autoscaled FlashDeployment on the real API, whose gateway is on paper."""

    def __init__(self, api: KubernetesApi, kubectl: Kubectl, provider: str, name: str) -> None:
        super().__init__(PaperGateways(api), kubectl, name)
        self.inflight = 1.0
        self.provided_by(provider)

    def provided_by(self, provider: str) -> None:
        scaling = {"maxReplicas": 8, "provider": provider, "scaleDownStabilizationSeconds": 30}
        self.write(engine={"autoscaling": scaling})

    def write(self, **spec: Any) -> None:
        manifest = {**a_manifest(**spec), "metadata": {"name": self.key.name}}
        self._kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(manifest))

    async def until_engines(self, number: int) -> None:
        """Wait for the HPA, in a thread, because it asks us meanwhile."""
        what = f"{self.key.name} has {number} engines"
        await asyncio.to_thread(eventually, what, lambda: self.engines == number)


def active(outcome: Outcome) -> tuple[str, str, str]:
    found = next(c for c in outcome.status["conditions"] if c["type"] == "ScalingActive")
    return found["status"], found["reason"], found["message"]


async def test_a_real_hpa_gives_the_numbers_that_the_operator_gives_itself(
    api: KubernetesApi, kubectl: Kubectl, external_metrics: ExternalMetricsApi
) -> None:
    async with served(api, external_metrics.port):
        ours = World(api, kubectl, "BuiltIn", "plain")
        theirs = World(api, kubectl, "HorizontalPodAutoscaler", "followed")
        numbers = []
        for inflight in TRACE:
            for world in (ours, theirs):
                world.inflight = inflight
                await world.step()
            await theirs.until_engines(ours.engines)
            for world in (ours, theirs):
                await world.look()
            numbers.append(ours.engines)
        print(f"engine pods, set by the HPA as by the operator: {numbers}")
        assert max(numbers) >= 5
        assert numbers[-1] < max(numbers)
        assert ours.scaling["history"] == theirs.scaling["history"]
        done = theirs.scaling["autoscaler"]
        changes = [event["toReplicas"] for event in reversed(theirs.scaling["history"])]
        assert [event["toReplicas"] for event in reversed(done["history"])] == changes
        assert active(await theirs.look())[0] == "True"
        owners = {each["manager"] for each in theirs.deployment["metadata"]["managedFields"] if owns_replicas(each)}
        assert "flashplane" in owners


def owns_replicas(entry: dict[str, Any]) -> bool:
    return "f:replicas" in entry["fieldsV1"].get("f:spec", {})


async def test_a_change_of_provider_under_load_never_touches_the_number(
    api: KubernetesApi, kubectl: Kubectl, external_metrics: ExternalMetricsApi
) -> None:
    async with served(api, external_metrics.port):
        world = World(api, kubectl, "HorizontalPodAutoscaler", "chat")
        await world.step()
        world.inflight = 60
        await world.step()
        await world.until_engines(3)
        for _ in range(2):
            await world.look()
        before = world.deployment["metadata"]["generation"]
        for provider in ("BuiltIn", "HorizontalPodAutoscaler", "BuiltIn"):
            world.provided_by(provider)
            for _ in range(3):
                await world.look()
            horizontal = kubectl.get("hpa", "chat-engine")
            assert (horizontal is None) == (provider == "BuiltIn")
        # Each change of a spec counts, also one that is taken back before anyone looks.
        assert world.deployment["metadata"]["generation"] == before
        assert world.engines == 3


async def test_a_suspended_deployment_stays_without_pods_and_resumes_with_as_many_as_before(
    api: KubernetesApi, kubectl: Kubectl, external_metrics: ExternalMetricsApi
) -> None:
    async with served(api, external_metrics.port):
        world = World(api, kubectl, "HorizontalPodAutoscaler", "chat")
        world.inflight = 60
        for _ in range(2):
            await world.step()
        await world.until_engines(3)
        await world.look()
        scaling = {"maxReplicas": 8, "provider": "HorizontalPodAutoscaler", "scaleDownStabilizationSeconds": 30}
        world.write(engine={"autoscaling": scaling}, suspend=True)
        await world.look()

        def disabled() -> bool:
            conditions = kubectl.get("hpa", "chat-engine").get("status", {}).get("conditions", ())
            return any(each["reason"] == "ScalingDisabled" for each in conditions)

        await asyncio.to_thread(eventually, "the HPA has seen it", disabled)
        assert world.engines == 0
        assert "Provider" not in active(await world.look())[1]
        world.write(engine={"autoscaling": scaling})
        await world.look()
        assert world.engines == 3


async def test_an_hpa_that_nobody_tells_the_number_is_a_condition(api: KubernetesApi, kubectl: Kubectl) -> None:
    world = World(api, kubectl, "HorizontalPodAutoscaler", "chat")
    await world.step()

    def has_looked() -> bool:
        return bool(kubectl.get("hpa", "chat-engine").get("status", {}).get("conditions", ()))

    eventually("the HPA has looked", has_looked)
    eventually("it found no number", lambda: "FailedGetExternalMetric" in kubectl("get", "hpa", "-o", "yaml"))
    status, reason, message = active(await world.step())
    assert (status, reason) == ("False", "ProviderFailing")
    assert "unable to get external metric" in message
    assert world.engines == 1


async def test_only_the_api_server_may_ask_and_it_asks_for_whoever_may(
    api: KubernetesApi,
    kubectl: Kubectl,
    control_plane: ControlPlane,
    operator_account: Path,
    external_metrics: ExternalMetricsApi,
) -> None:
    world = World(api, kubectl, "HorizontalPodAutoscaler", "chat")
    for _ in range(2):
        await world.step()
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{kubectl.namespace}/{names.METRIC_DESIRED_ENGINES}"

    def ask(name: str, kubeconfig: Path | None = None) -> str:
        query = f"{path}?labelSelector={names.LABEL_DEPLOYMENT}%3D{name}"
        return control_plane.kubectl("get", "--raw", query, **({"kubeconfig": kubeconfig} if kubeconfig else {}))

    def answers_us() -> bool:
        try:
            return bool(ask("chat"))
        except KubectlFailed:
            return False

    async with served(api, external_metrics.port):
        await asyncio.to_thread(eventually, "the API server asks us", answers_us)
        (item,) = json.loads(await asyncio.to_thread(ask, "chat"))["items"]
        assert (item["value"], item["metricLabels"]) == ("1", {names.LABEL_DEPLOYMENT: "chat"})
        for name, said in (("nobody", "has no number"), ("a/b", "labelSelector")):
            with pytest.raises(KubectlFailed, match=said):
                await asyncio.to_thread(ask, name)
        with pytest.raises(KubectlFailed, match=r"[Ff]orbidden"):
            await asyncio.to_thread(ask, "chat", operator_account)
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        async with aiohttp.ClientSession() as stranger:
            with pytest.raises(aiohttp.ClientError):
                await stranger.get(f"https://127.0.0.1:{external_metrics.port}{path}", ssl=trusting)


async def test_replicas_of_the_operator_add_their_certificates_and_do_not_write_again(
    api: KubernetesApi, control_plane: ControlPlane, external_metrics: ExternalMetricsApi
) -> None:
    def registration() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(control_plane.kubectl("get", "apiservice", API_SERVICE, "-o", "json"))
        return found

    first, second = serving(api, external_metrics.port), serving(api, 0)
    try:
        await first.renew()
        await second.renew()
        bundle = base64.b64decode(registration()["spec"]["caBundle"])
        assert len(x509.load_pem_x509_certificates(bundle)) == 2
        await first.renew()
        await second.renew()
        assert base64.b64decode(registration()["spec"]["caBundle"]) == bundle
    finally:
        await first.aclose()
        await second.aclose()


def lists(control_plane: ControlPlane, kind: str) -> bool:
    try:
        return "items" in control_plane.kubectl("get", kind, "-A", "-o", "json")
    except KubectlFailed:
        return False


@pytest.fixture
def keda(control_plane: ControlPlane, helm: Helm) -> Iterator[Path]:
    """A cluster that knows ScaledObjects, with what the chart gives KEDA. A kubeconfig of the account KEDA asks by."""
    kinds = [found for found in yaml.safe_load_all(OPTIONAL.read_text()) if found["spec"]["group"] == "keda.sh"]
    control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(kinds))
    eventually("it is served", lambda: lists(control_plane, "scaledobjects.keda.sh"))
    shown = list(yaml.safe_load_all(helm.template("--set", "keda.enabled=true", only=["keda"])))
    own = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keda"}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "keda-operator", "namespace": "keda"}}
    rest = [manifest for manifest in shown if manifest["kind"] != "ClusterTriggerAuthentication"]
    manifests = yaml.safe_dump_all([own, account, *rest])
    control_plane.kubectl("apply", "-f", "-", stdin=manifests)
    yield control_plane.kubeconfig_for_service_account("keda", "flashplane-keda")
    control_plane.kubectl("delete", "-f", "-", "--wait=false", stdin=manifests)
    control_plane.kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(kinds))


async def test_keda_is_given_a_scaled_object_and_an_account_that_reads_the_number_and_nothing_else(
    api: KubernetesApi, kubectl: Kubectl, control_plane: ControlPlane, keda: Path
) -> None:
    world = World(api, kubectl, "KEDA", "chat")
    outcome = [await world.step() for _ in range(2)][-1]
    assert active(outcome)[:2] == ("Unknown", "ProviderPending")
    (trigger,) = kubectl.get("scaledobject", "chat-engine")["spec"]["triggers"]
    path = trigger["metadata"]["url"].removeprefix("https://kubernetes.default.svc")
    found: Any = json.loads(control_plane.kubectl("get", "--raw", path, kubeconfig=keda))
    for step in trigger["metadata"]["valueLocation"].split("."):
        found = found[step]
    assert found == 1

    def may(*what: str, kubeconfig: Path) -> bool:
        try:
            said = control_plane.kubectl("auth", "can-i", *what, kubeconfig=kubeconfig)
        except KubectlFailed:
            return False
        return said.strip() == "yes"

    for what in (("list", "flashdeployments"), ("patch", "flashdeployments"), ("get", "secrets"), ("list", "pods")):
        assert not may(*what, "-n", kubectl.namespace, kubeconfig=keda), what
    theirs = control_plane.kubeconfig_for_service_account("keda", "keda-operator")
    token = ("create", "serviceaccounts", "--subresource=token", "-n", "keda")
    assert not may(*token, kubeconfig=theirs)
    assert may("create", "serviceaccounts/flashplane-keda", "--subresource=token", "-n", "keda", kubeconfig=theirs)
