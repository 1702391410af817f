"""Where clients find an endpoint, and what keeps its door shut, from the objects that make the door. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Door:
    """The way in."""

    url: str
    """Base URL for clients, without `/v1`; empty = nobody knows it yet."""
    unreached: str | None = None
    """Why nobody comes through it yet, although everything behind it may work."""
    uncertified: str | None = None
    """Why gateway pods have no certificate yet."""


def door(deployment: FlashDeployment | None, children: Sequence[Manifest], *, inside: str, outside: bool) -> Door:
    """The door of an endpoint, found `inside` at that base URL. Where nobody comes from outside that is all of it."""
    if deployment is None or not outside:
        return Door(inside)
    name, endpoint = deployment.metadata.name, deployment.spec.endpoint
    uncertified = _uncertified(children)
    if endpoint.gateway_ref is not None or endpoint.ingress_class_name is not None:
        return Door(f"https://{endpoint.hostname}", uncertified=uncertified)
    scheme = "https" if endpoint.ends_tls else "http"
    named = None if endpoint.hostname is None else _url(scheme, endpoint.hostname, endpoint.port)
    if not endpoint.has_load_balancer:
        return Door(named or inside, uncertified=uncertified)
    address = _address(children, names.gateway_name(name))
    if address is None:
        unreached = f"Service {names.gateway_name(name)} has no address from its load balancer yet."
        return Door(named or "", unreached, uncertified)
    return Door(named or _url(scheme, address, endpoint.port), uncertified=uncertified)


def _url(scheme: str, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port == (443 if scheme == "https" else 80) else f"{scheme}://{shown}:{port}"


def _address(children: Sequence[Manifest], service: str) -> str | None:
    """The first that the load balancer says: a name, on clouds whose addresses change, or an address."""
    found = next((c for c in children if c.get("kind") == "Service" and c["metadata"]["name"] == service), {})
    entries = ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    said = (entry.get("hostname") or entry.get("ip") for entry in entries)
    return next((str(each) for each in said if each), None)


def _uncertified(children: Sequence[Manifest]) -> str | None:
    certificate = next((child for child in children if child.get("kind") == "Certificate"), None)
    if certificate is None:
        return None
    said = {c.get("type"): c for c in (certificate.get("status") or {}).get("conditions") or ()}
    ready = said.get("Ready") or {}
    if ready.get("status") == "True":
        return None
    name, why = certificate["metadata"]["name"], ready.get("message") or "cert-manager has said nothing yet"
    return f"Certificate {name} is not issued: {why}"
