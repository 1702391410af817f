"""Which Service leads to which pods, and the hosts file that says so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flash_api.names import service_host
from flash_operator.local.store import Manifest

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Backend:
    """A pod that can take requests."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[int, int]
    port_names: Mapping[str, int]


def selects(service: Manifest, labels: Mapping[str, str]) -> bool:
    selector = service["spec"].get("selector") or {}
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def is_headless(service: Manifest) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def endpoint_ports(services: Iterable[Manifest], pod: Manifest) -> dict[int, int]:
    """Container port → port, of the Services with an address of their own that lead to pods of this template.

    On this machine such a port is one listening socket, which all those pods share.
    """
    names = {
        entry["name"]: entry["containerPort"]
        for container in pod["spec"]["containers"]
        for entry in container.get("ports", ())
        if "name" in entry
    }
    found = {}
    for service in services:
        if not is_headless(service) and selects(service, pod["metadata"]["labels"]):
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                found[names.get(target, target)] = port["port"]
    return found


def hosts_file(services: Sequence[Manifest], ready: Sequence[Backend]) -> str:
    """Lines of `host:port address:port …`: what DNS would say of the headless Services."""
    lines = []
    for service in services:
        namespace = service["metadata"]["namespace"]
        pods = [pod for pod in ready if pod.namespace == namespace and selects(service, pod.labels)]
        for port in service["spec"]["ports"] if is_headless(service) else ():
            target = port.get("targetPort", port["port"])
            addresses = [
                f"{LOOPBACK}:{pod.ports[number]}"
                for pod in pods
                if (number := pod.port_names.get(target, target)) in pod.ports
            ]
            host = service_host(service["metadata"]["name"], namespace)
            lines.append(" ".join([f"{host}:{port['port']}", *addresses]))
    return "".join(f"{line}\n" for line in lines)
