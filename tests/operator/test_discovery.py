"""Which optional kinds a cluster knows: asked once a minute, and again when the minute is over."""

from typing import Any

from flash_operator.cluster.kubernetes import DISCOVERY_SECONDS, KubernetesCluster, Missing

ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")


class Discovery:
    """An API server that knows only its kinds."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.asked: list[str] = []
        self.now = 0.0

    async def request(self, method: str, path: str) -> Any:
        assert method == "get"
        self.asked.append(path)
        if not self.kinds:
            raise Missing("404")
        return {"kind": "APIResourceList", "resources": [{"kind": kind} for kind in self.kinds]}


def a_cluster(api: Any) -> KubernetesCluster:
    return KubernetesCluster(api, clock=lambda: float(api.now))


async def test_a_kind_is_served_when_its_group_lists_it() -> None:
    assert await a_cluster(Discovery("HTTPRoute", "Gateway")).serves(*ROUTE)
    assert not await a_cluster(Discovery("Gateway")).serves(*ROUTE)


async def test_a_group_that_is_not_there_serves_nothing() -> None:
    api = Discovery()
    assert not await a_cluster(api).serves(*ROUTE)
    assert api.asked == ["/apis/gateway.networking.k8s.io/v1"]


async def test_a_kind_that_comes_later_is_found_after_a_while_and_asked_for_no_more_often() -> None:
    api = Discovery()
    cluster = a_cluster(api)
    assert not await cluster.serves(*ROUTE)
    api.kinds = ("HTTPRoute",)
    api.now = DISCOVERY_SECONDS / 2
    assert not await cluster.serves(*ROUTE)
    assert len(api.asked) == 1
    api.now = DISCOVERY_SECONDS
    assert await cluster.serves(*ROUTE)
