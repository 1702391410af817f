"""The external metrics API without an API server: its pages, its certificates, and when it is renewed."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from flash_api import names
from flash_operator.cluster.protocol import ClusterError, Conflict, Key
from flash_operator.external_metrics.application import application
from flash_operator.external_metrics.certificates import BUNDLE_MAX, RENEWED_AFTER, VALID, bundle, issue
from flash_operator.external_metrics.serving import API_SERVICE, FRONT_PROXY, Endpoint, ExternalMetrics

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROOT = "/apis/external.metrics.k8s.io/v1beta1"
METRIC = f"{ROOT}/namespaces/ml/{names.METRIC_DESIRED_ENGINES}"
CHAT = {"labelSelector": f"{names.LABEL_DEPLOYMENT}=chat"}


async def wanted(key: Key) -> int | None:
    if key.name == "broken":
        raise ClusterError("the Kubernetes API did not answer")
    return {Key("ml", "chat"): 4}.get(key)


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    async with TestClient(TestServer(application(wanted, (), lambda: NOON))) as found:
        yield found


async def test_the_number_is_told_as_kubernetes_reads_it(client: Any) -> None:
    (item,) = (await (await client.get(METRIC, params=CHAT)).json())["items"]
    assert (item["metricName"], item["value"]) == (names.METRIC_DESIRED_ENGINES, "4")
    assert item["timestamp"] == "2026-01-05T12:00:00Z"
    (resource,) = (await (await client.get(ROOT)).json())["resources"]
    assert (resource["name"], resource["namespaced"]) == (names.METRIC_DESIRED_ENGINES, True)


@pytest.mark.parametrize(
    ("path", "selector", "code", "says"),
    [
        (METRIC, "flashplane.dev/deployment=nobody", 404, "no number of engine pods"),
        (METRIC, "flashplane.dev/deployment=broken", 503, "did not answer"),
        (METRIC, "flashplane.dev/deployment=../secrets", 400, "must be flashplane.dev/deployment=NAME"),
        (METRIC, "flashplane.dev/deployment=a/b", 400, "must be"),
        (METRIC, "flashplane.dev/deployment=", 400, "must be"),
        (METRIC, "app=chat", 400, "must be"),
        (METRIC, "", 400, "must be"),
        (f"{ROOT}/namespaces/ml/other", "flashplane.dev/deployment=chat", 404, "there is no metric other"),
    ],
)
async def test_what_cannot_be_answered_is_said(client: Any, path: str, selector: str, code: int, says: str) -> None:
    answer = await client.get(path, params={"labelSelector": selector})
    said = await answer.json()
    assert (answer.status, said["kind"], said["code"]) == (code, "Status", code)
    assert says in said["message"]


async def test_whoever_has_not_the_name_of_the_api_server_is_refused() -> None:
    async with TestClient(TestServer(application(wanted, ("front-proxy-client",), lambda: NOON))) as stranger:
        assert (await stranger.get(METRIC, params=CHAT)).status == 403


def test_a_bundle_keeps_what_holds_drops_what_has_ended_and_does_not_grow_for_ever() -> None:
    old, mine = issue("a.b.svc", NOON - VALID - timedelta(hours=1)), issue("a.b.svc", NOON)
    other = issue("a.b.svc", NOON - timedelta(days=1))
    found = bundle(old.certificate + other.certificate, mine.certificate, NOON)
    assert set(x509.load_pem_x509_certificates(found)) == set(
        x509.load_pem_x509_certificates(mine.certificate + other.certificate)
    )
    assert bundle(found, mine.certificate, NOON) == found
    assert bundle(b"no certificate", mine.certificate, NOON) == mine.certificate
    many = b"".join(issue("a.b.svc", NOON - timedelta(minutes=each)).certificate for each in range(BUNDLE_MAX + 4))
    assert len(x509.load_pem_x509_certificates(bundle(many, other.certificate, NOON))) == BUNDLE_MAX + 1


class Api:
    """The two objects that it reads, and what it wrote."""

    def __init__(self, authority: bytes, service: str = "metrics") -> None:
        self.proxy = {
            "requestheader-client-ca-file": authority.decode(),
            "requestheader-allowed-names": json.dumps(["front-proxy-client"]),
        }
        self.registration: dict[str, Any] = {
            "metadata": {"resourceVersion": "1"},
            "spec": {"service": {"name": service, "namespace": "flashplane-system"}},
        }
        self.writes = 0
        self.conflicts = 0

    async def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        del params
        if path == FRONT_PROXY:
            return {"data": self.proxy}
        assert path == API_SERVICE
        if method == "patch":
            if self.conflicts:
                self.conflicts -= 1
                raise Conflict("it has been modified")
            self.registration["spec"] |= body["spec"]
            self.writes += 1
        return self.registration


async def test_a_certificate_is_published_once_and_renewed_before_it_ends() -> None:
    now = NOON
    api = Api(issue("ca", NOON).certificate)
    api.conflicts = 1
    metrics = ExternalMetrics(api, Endpoint("127.0.0.1", 0, "metrics", "flashplane-system"), lambda: now)
    try:
        for _ in range(3):
            await metrics.renew()
        assert api.writes == 1
        now = NOON + RENEWED_AFTER
        await metrics.renew()
        assert api.writes == 2
        shown = x509.load_pem_x509_certificates(base64.b64decode(api.registration["spec"]["caBundle"]))
        names_shown = {name for each in shown for name in hosts(each)}
        assert (len(shown), names_shown) == (2, {"metrics.flashplane-system.svc"})
        api.registration["spec"]["caBundle"] = ""  # as someone who writes the whole object does
        await metrics.renew()
        assert api.writes == 3
    finally:
        await metrics.aclose()


def hosts(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


async def test_the_api_of_another_adapter_is_left_alone_and_named() -> None:
    api = Api(issue("ca", NOON).certificate, service="prometheus-adapter")
    metrics = ExternalMetrics(api, Endpoint("127.0.0.1", 0, "metrics", "flashplane-system"), lambda: NOON)
    with pytest.raises(ClusterError, match="flashplane-system/prometheus-adapter; a cluster can have only one"):
        await metrics.renew()
    assert api.writes == 0


async def test_without_a_front_proxy_nobody_is_served() -> None:
    api = Api(b"")
    metrics = ExternalMetrics(api, Endpoint("127.0.0.1", 0, "metrics", "flashplane-system"), lambda: NOON)
    with pytest.raises(ClusterError, match="no front proxy"):
        await metrics.renew()
