"""Services without a network: shared sockets and the hosts file."""

from __future__ import annotations

from typing import Any

from flash_operator.local.services import Backend, endpoint_ports, hosts_file


def a_service(name: str, component: str, *, headless: bool, port: int, target: object = None) -> dict[str, Any]:
    ports = [{"port": port, "targetPort": target or port}]
    spec = {"selector": {"component": component}, "ports": ports, **({"clusterIP": "None"} if headless else {})}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def a_backend(port: int, *, component: str = "engine", namespace: str = "default") -> Backend:
    return Backend(namespace, {"component": component}, {8001: port}, {"grpc": 8001})


ENGINES = a_service("chat-engine", "engine", headless=True, port=8001)


def test_a_headless_service_resolves_to_every_ready_pod() -> None:
    assert hosts_file([ENGINES], [a_backend(5001), a_backend(5002)]) == (
        "chat-engine.default.svc:8001 127.0.0.1:5001 127.0.0.1:5002\n"
    )


def test_a_service_without_ready_pods_is_a_name_without_addresses() -> None:
    assert hosts_file([ENGINES], []) == "chat-engine.default.svc:8001\n"


def test_pods_of_others_do_not_answer_for_a_service() -> None:
    others = [a_backend(5001, component="gateway"), a_backend(5002, namespace="elsewhere")]
    assert hosts_file([ENGINES], others) == "chat-engine.default.svc:8001\n"


def test_a_target_port_may_be_named() -> None:
    service = a_service("chat-engine", "engine", headless=True, port=80, target="grpc")
    assert hosts_file([service], [a_backend(5001)]) == "chat-engine.default.svc:80 127.0.0.1:5001\n"


def a_template(component: str, port: int) -> dict[str, Any]:
    containers = [{"name": component, "ports": [{"name": "http", "containerPort": port}]}]
    return {"metadata": {"labels": {"component": component}}, "spec": {"containers": containers}}


def test_only_a_service_with_an_address_of_its_own_is_a_shared_socket() -> None:
    gateway = a_service("chat-gateway", "gateway", headless=False, port=9090, target="http")
    assert endpoint_ports([ENGINES, gateway], a_template("gateway", 8080)) == {8080: 9090}
    assert endpoint_ports([ENGINES, gateway], a_template("engine", 8001)) == {}
