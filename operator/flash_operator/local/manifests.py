"""Manifest files as the objects to store, checked as strictly as an API server would."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flash_api.manifest import Secret, parse_manifests
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.local.client import Snapshot
from flash_operator.local.listeners import PortInUseError, require_free
from flash_operator.local.store import Manifest
from flash_operator.sources import UnreadableError, label, manifest_text

_KEPT_METADATA: Final = ("name", "namespace", "labels", "annotations")
"""The rest is the store's to fill in; a manifest saved from a cluster carries values of that cluster."""


class ManifestError(Exception):
    """The manifests cannot be served; the message says all that is wrong with them."""


@dataclass(frozen=True)
class Wanted:
    """What the files ask for."""

    deployments: tuple[dict[str, Any], ...]
    models: tuple[dict[str, Any], ...]
    secrets: tuple[dict[str, Any], ...]


def read(files: Sequence[Path]) -> Wanted:
    """Everything in the files. Raises ManifestError."""
    deployments: list[FlashDeployment] = []
    models: list[FlashModel] = []
    secrets: list[Secret] = []
    problems: list[str] = []
    for file in files:
        try:
            found = parse_manifests(manifest_text(file), file=label(file))
        except UnreadableError as error:
            raise ManifestError(str(error)) from error
        problems += [f"{problem.place}: {problem}" if problem.place else str(problem) for problem in found.problems]
        models += found.models
        deployments += found.deployments
        secrets += found.secrets
    for again in _repeated([*deployments, *models, *secrets]):
        problems.append(f"{again} stands in more than one file; keep one of them")
    if problems:
        raise ManifestError("\n  ".join(problems))
    return Wanted(
        tuple(map(_stored_form, deployments)), tuple(map(_stored_form, models)), tuple(map(_stored_secret, secrets))
    )


def require_free_ports(deployments: Sequence[Manifest], snapshot: Snapshot) -> None:
    """Each endpoint's port is this deployment's own already, or nobody's. Raises ManifestError."""
    running = {_identity(entry["manifest"]): _port(entry["manifest"]) for entry in snapshot.deployments}
    holders = {port: name for name, port in running.items()}
    for manifest in deployments:
        name, port = _identity(manifest), _port(manifest)
        holder = holders.setdefault(port, name)
        if holder != name:
            raise ManifestError(f"spec.endpoint.port ({port}) of {name} is the port of {holder}: choose another one")
        if snapshot.daemon_pid is None or running.get(name) != port:
            try:
                require_free(port)
            except PortInUseError as error:
                raise ManifestError(f"{name}: {error}") from error


def _repeated(objects: Sequence[FlashDeployment | FlashModel | Secret]) -> list[str]:
    counts = Counter(f"{found.kind} {found.metadata.namespace}/{found.metadata.name}" for found in objects)
    return [name for name, count in counts.items() if count > 1]


def _identity(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}"


def _port(manifest: Manifest) -> int:
    endpoint = manifest["spec"].get("endpoint") or {}
    return int(endpoint.get("port", 8080))


def _stored_form(found: FlashDeployment | FlashModel) -> dict[str, Any]:
    """As written: defaults are applied when it is read, so a later release may improve them."""
    written = found.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    return _with_kept_metadata(written, found.api_version, found.kind)


def _stored_secret(secret: Secret) -> dict[str, Any]:
    values = {key: secret.value(key) or b"" for key in (*secret.data, *secret.string_data)}
    written: dict[str, Any] = {
        "metadata": secret.metadata.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "type": secret.type,
        "data": {key: base64.b64encode(value).decode() for key, value in values.items()},
    }
    return _with_kept_metadata(written, secret.api_version, secret.kind)


def _with_kept_metadata(written: dict[str, Any], api_version: str, kind: str) -> dict[str, Any]:
    metadata = {key: value for key, value in written["metadata"].items() if key in _KEPT_METADATA}
    return {**written, "apiVersion": api_version, "kind": kind, "metadata": metadata}
