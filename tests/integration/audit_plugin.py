"""What the operator's ServiceAccount has asked of the API server, read from the server's own audit log.

The test that asks for `recorded_calls` runs last, so that it speaks of everything that ran before it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane

OPERATOR = "system:serviceaccount:flashplane-system:flashplane-operator"
Permission = tuple[str, str, str]
"""API group, resource with its subresource, verb."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "recorded_calls" in getattr(item, "fixturenames", ()))


def recorded(log: Path) -> set[Permission]:
    """The permissions that the operator's calls needed so far; kubectl in its name does not count."""
    found = set()
    for line in log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["user"]["username"] != OPERATOR or event["userAgent"].startswith("kubectl"):
            continue
        reference = event["objectRef"]
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        needed = (reference.get("apiGroup", ""), resource)
        found.add((*needed, event["verb"]))
        # A server-side apply that makes an object is asked for the right to create it as well.
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            found.add((*needed, "create"))
    return found


def recorded_statuses(log: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every status that the operator has written so far, each once, with the resource that it is of."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for line in log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["objectRef"].get("subresource") == "status" and event["verb"] == "patch" and "requestObject" in event:
            said = (event["objectRef"]["resource"], event["requestObject"]["status"])
            found[json.dumps(said, sort_keys=True)] = said
    return list(found.values())


@pytest.fixture
def recorded_calls(control_plane: ControlPlane) -> set[Permission]:
    return recorded(control_plane.audit_log)
