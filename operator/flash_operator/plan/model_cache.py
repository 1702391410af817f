"""The volume of a FlashModel: a PersistentVolumeClaim that the pull fills and that pods mount.

It belongs to the FlashModel, so both go together. Kubernetes keeps a claim that is being deleted until the last pod
that mounts it has ended, so what serves goes on serving; no pod is started on it any more.
"""

from __future__ import annotations

from typing import Final

from flash_api import names
from flash_api.quantities import canonical, number, whole_bytes
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_api.v1alpha1.source import scheme
from flash_operator.plan.metadata import Manifest, owned_object

BUILTIN_SIZE: Final = "2Gi"
DEFAULT_SIZE: Final = "64Gi"
"""The download of ten billion parameters as bf16 (20 GB) and every variant of it (20, 10 and 6 GB): room for variants
that are added later, since not every StorageClass lets a volume grow."""


def cache_size(model: FlashModel) -> str:
    """The size that the spec asks for, or the default of its kind of source."""
    default = BUILTIN_SIZE if scheme(model.spec.source) == "builtin" else DEFAULT_SIZE
    return model.spec.cache.size or default


def cache_bytes(model: FlashModel) -> int:
    """The same in bytes."""
    return whole_bytes(cache_size(model))


def model_cache(model: FlashModel, *, at_least: str | None = None) -> Manifest:
    """The claim. `at_least` is what it has now: volumes do not shrink."""
    cache, size = model.spec.cache, canonical(cache_size(model))
    if at_least is not None and number(at_least) > number(size):
        size = at_least
    return owned_object(
        model,
        names.COMPONENT_PULL,
        api_version="v1",
        kind="PersistentVolumeClaim",
        name=names.model_claim(model.metadata.name),
        spec={
            "accessModes": [cache.access_mode],
            "resources": {"requests": {"storage": size}},
            **({"storageClassName": cache.storage_class_name} if cache.storage_class_name is not None else {}),
        },
    )
