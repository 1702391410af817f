"""The operator's own loop over objects on disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from builders import a_model_manifest

from flash_operator.cluster.protocol import Conflict, Key
from flash_operator.local.cluster import LocalCluster
from flash_operator.local.secrets import first_api_key, unreferenced
from flash_operator.local.store import Ref, Store
from flash_operator.observation import ProbeResult
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile

CHAT = Key("default", "chat")


def a_deployment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "flashplane.dev/v1alpha1",
        "kind": "FlashDeployment",
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"model": {"source": "builtin://smollm2-135m-instruct"}, **spec},
    }


def a_secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


async def passed(cluster: LocalCluster) -> Outcome:
    async def probe(url: str) -> ProbeResult:
        return ProbeResult(ok=False, message=f"nobody asked for {url}")

    return await reconcile(
        cluster, CHAT, probe=probe, now=lambda: datetime(2026, 1, 1, tzinfo=UTC), settings=ReconcileSettings()
    )


async def test_a_further_pass_over_an_unchanged_deployment_writes_nothing(store: Store) -> None:
    store.apply(a_deployment())
    cluster = LocalCluster(store)
    first, second, third = [await passed(cluster) for _ in range(3)]
    assert "Deployment/chat-engine" in first.applied
    assert (second.applied, second.status_written) == ((), True)
    assert third.writes == 0


async def test_deleting_the_deployment_leaves_none_of_its_objects(store: Store) -> None:
    store.apply(a_deployment())
    cluster = LocalCluster(store)
    await passed(cluster)
    assert await cluster.owned(CHAT)
    store.delete(Ref("FlashDeployment", "default", "chat"))
    assert await cluster.owned(CHAT) == ()
    assert (await passed(cluster)).gone


async def test_an_object_that_changed_meanwhile_is_not_deleted(store: Store) -> None:
    seen = store.apply({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}})
    store.apply({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "2"}})
    cluster = LocalCluster(store)
    with pytest.raises(Conflict, match="resourceVersion"):
        await cluster.delete(seen)
    await cluster.delete({"kind": "ConfigMap", "metadata": {"name": "gone"}})
    assert len(store.list("ConfigMap")) == 1


@pytest.mark.parametrize(
    ("spec", "ignored"),
    [
        ({}, ()),
        ({"endpoint": {"visibility": "Private"}}, ()),
        ({"endpoint": {"visibility": "Cluster"}}, ("endpoint.visibility",)),
        ({"residency": {"regions": ["eu"]}, "suspend": True}, ("residency.regions",)),
        (
            {"endpoint": {"visibility": "Public", "hostname": "a.example.com", "gatewayRef": {"name": "edge"}}},
            ("endpoint.visibility", "endpoint.hostname", "endpoint.gatewayRef"),
        ),
        (
            {"endpoint": {"tls": {"secretName": "t"}, "allowedCIDRs": ["10.0.0.0/8"], "loadBalancer": {"class": "c"}}},
            ("endpoint.allowedCIDRs", "endpoint.loadBalancer", "endpoint.tls"),
        ),
        ({"rollout": {"surge": 1, "paused": False, "progressDeadlineSeconds": 60}}, ()),
        ({"rollout": {"surge": 0, "paused": True}}, ("rollout.surge", "rollout.paused")),
        ({"engine": {"resources": {"cpu": "2", "memory": None}}}, ("engine.resources.cpu",)),
        ({"draft": {"mode": "Pods", "placement": "SameNode", "replicas": 2}}, ()),
        ({"draft": {"placement": "SameZone", "resources": {"cpu": "1"}}}, ("draft.resources.cpu", "draft.placement")),
        ({"rollout": {"strategy": "Canary", "canaryPercent": 10, "paused": True}}, ()),
        ({"rollout": {"canaryPercent": 10}, "gateway": {"replicas": 2}}, ("rollout.canaryPercent",)),
    ],
)
def test_fields_that_do_not_hold_here_are_named_when_they_are_set(
    store: Store, spec: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    fields = LocalCluster(store).ignored_fields(spec)
    assert tuple(field.partition(":")[0] for field in fields) == ignored
    assert all(field.partition(": ")[2] for field in fields)


def test_the_endpoint_is_on_this_machine(store: Store) -> None:
    assert LocalCluster(store).endpoint_url(CHAT, 8080) == "http://127.0.0.1:8080"


def test_chat_finds_the_first_key_that_is_not_a_comment(store: Store) -> None:
    store.apply(a_secret("keys", **{"api-keys": "# tests\n\nsk-1\nsk-2\n"}))
    asking = a_deployment(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}})
    assert first_api_key(store, asking) == "sk-1"
    assert first_api_key(store, a_deployment()) is None


def test_a_secret_goes_when_no_deployment_names_it_any_more(store: Store) -> None:
    store.apply(a_secret("keys"))
    store.apply(a_secret("stray"))
    store.apply(a_deployment(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}}))
    assert unreferenced(store) == [Ref("Secret", "default", "stray")]


def test_a_model_goes_when_no_deployment_names_it_any_more_and_its_secret_with_it(store: Store) -> None:
    token = {"credentialsSecretRef": {"name": "token", "key": "token"}}
    for name in ("olmoe", "stray"):
        store.apply(a_model_manifest(name, **token))
    store.apply(a_secret("token"))
    assert unreferenced(store) == [
        Ref("FlashModel", "default", "olmoe"),
        Ref("FlashModel", "default", "stray"),
        Ref("Secret", "default", "token"),
    ]
    store.apply(a_deployment(model={"modelRef": {"name": "olmoe"}}))
    assert unreferenced(store) == [Ref("FlashModel", "default", "stray")]
