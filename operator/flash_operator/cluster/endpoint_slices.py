"""Where the pods of a Service are, as its EndpointSlices say: addresses, and nothing else of the pods. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from flash_operator.cluster.protocol import Manifest

SERVICE_LABEL: Final = "kubernetes.io/service-name"


def base_urls(slices: Sequence[Manifest]) -> tuple[str, ...]:
    """One URL for each pod that takes requests, those that are draining included: their requests still run.

    In a dual-stack cluster a pod is in a slice of either family, and for a moment it may be in two of one.
    """
    found: dict[str, str] = {}
    for each in slices:
        ports = [(_scheme(port), port["port"]) for port in each.get("ports") or () if port.get("port")]
        for endpoint in each.get("endpoints") or () if ports else ():
            serving = (endpoint.get("conditions") or {}).get("serving")
            if serving is False or not endpoint.get("addresses"):
                continue
            address = ip_address(endpoint["addresses"][0])
            pod = (endpoint.get("targetRef") or {}).get("uid") or str(address)
            host = f"[{address}]" if address.version == 6 else str(address)
            scheme, number = ports[0]
            url = f"{scheme}://{host}:{number}"
            found[pod] = min(found.get(pod, url), url)
    return tuple(sorted(found.values()))


def _scheme(port: Manifest) -> str:
    return "https" if port.get("name") == "https" else "http"
