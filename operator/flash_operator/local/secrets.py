"""What local deployments name: which Secrets and FlashModels are still needed, and the key that `flash chat` sends."""

from __future__ import annotations

from typing import Any

from flash_api.names import KIND, MODEL_KIND
from flash_operator.local.pods import object_data
from flash_operator.local.store import Manifest, Ref, Store, ref_of


def references(deployment: Manifest) -> set[str]:
    """Names of the Secrets that the spec of a FlashDeployment or FlashModel mentions, whatever the field."""
    return set(_mentioned(deployment.get("spec") or {}))


def model_reference(deployment: Manifest) -> str | None:
    """The FlashModel that a FlashDeployment names."""
    ref = ((deployment.get("spec") or {}).get("model") or {}).get("modelRef") or {}
    return ref.get("name")


def unreferenced(store: Store) -> list[Ref]:
    """FlashModels that no FlashDeployment of their namespace names, and Secrets that none of both mentions."""
    deployments = store.list(KIND)
    used = {Ref(MODEL_KIND, found["metadata"]["namespace"], model_reference(found) or "") for found in deployments}
    kept = [model for model in store.list(MODEL_KIND) if ref_of(model) in used]
    needed = {
        Ref("Secret", manifest["metadata"]["namespace"], name)
        for manifest in (*deployments, *kept)
        for name in references(manifest)
    }
    unused = [ref for ref in map(ref_of, store.list(MODEL_KIND)) if ref not in used]
    return unused + [ref for ref in map(ref_of, store.list("Secret")) if ref not in needed]


def first_api_key(store: Store, deployment: Manifest) -> str | None:
    """A key that the deployment's gateway accepts; None when it asks for none or the Secret is not here."""
    auth = ((deployment.get("spec") or {}).get("gateway") or {}).get("auth") or {}
    wanted = auth.get("apiKeysSecretRef")
    if not wanted:
        return None
    secret = store.get(Ref("Secret", deployment["metadata"]["namespace"], wanted["name"]))
    content = object_data(secret).get(wanted.get("key", "api-keys"), b"") if secret else b""
    lines = (line.strip() for line in content.decode(errors="replace").splitlines())
    return next((line for line in lines if line and not line.startswith("#")), None)


def _mentioned(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [entry["name"] for field, entry in value.items() if field.endswith("SecretRef") and entry]
        return own + [name for entry in value.values() for name in _mentioned(entry)]
    return []
