"""Objects of a FlashDeployment as a watch brings them."""

from typing import Any

from flash_api import names


def a_service(name: str = "a-engine", version: int = 1, owner: str = "a", **spec: Any) -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: owner}
    meta = {"name": name, "namespace": "default", "labels": labels, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
