"""The FlashModel resource: weights that are downloaded and packed once, for every deployment that names them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from flash_api.quantities import number
from flash_api.rules import Rule
from flash_api.v1alpha1.base import (
    LIST_AS_SET,
    NAME_RULES,
    ApiModel,
    ObjectMeta,
    ObjectName,
    Quantity,
    each_once,
    quantity_at_least,
)
from flash_api.v1alpha1.residency import Residency
from flash_api.v1alpha1.resources import Resources
from flash_api.v1alpha1.source import SOURCE_RULES, Pinned, SourceUri, Variant, scheme
from flash_api.v1alpha1.status import FlashModelStatus


class ModelCache(ApiModel):
    """The volume that holds the packed model."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        quantity_at_least("CacheIsUsable", "size", "64Mi", "write bytes with a suffix, such as 20Gi"),
        Rule(
            name="CacheNeverShrinks",
            field="size",
            cel="!has(oldSelf.size) || (has(self.size) && "
            "(!isQuantity(self.size) || !quantity(self.size).isLessThan(quantity(oldSelf.size))))",
            holds=lambda self, old: (
                old.size is None or (self.size is not None and number(self.size) >= number(old.size))
            ),
            rule="must not become less than it was",
            shows_value=False,
            remedy="keep the size or raise it: volumes do not shrink",
            of_change=True,
        ),
        Rule(
            name="CacheKeepsItsClass",
            field="storageClassName",
            cel="has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            holds=lambda self, old: self.storage_class_name == old.storage_class_name,
            rule="must not change",
            shows_value=False,
            remedy="make another FlashModel: a volume keeps its class",
            of_change=True,
        ),
        Rule(
            name="CacheKeepsItsAccessMode",
            field="accessMode",
            cel="self.accessMode == oldSelf.accessMode",
            holds=lambda self, old: self.access_mode == old.access_mode,
            rule="must not change",
            remedy="make another FlashModel: a volume keeps its access mode",
            of_change=True,
        ),
    )

    size: Quantity | None = Field(
        default=None,
        description="Bytes of the volume, as a Kubernetes quantity; unset = 2Gi for a builtin source, "
        "64Gi for any other: a download of ten billion parameters and all its variants. Example: 20Gi.",
    )
    storage_class_name: ObjectName | None = Field(
        default=None, description="StorageClass of the volume; unset = the cluster's default. Example: fast-ssd."
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        default="ReadWriteOnce",
        description="ReadWriteOnce: pods of one node share it; ReadWriteMany: pods of all nodes do, where the storage "
        "class can. Example: ReadWriteMany.",
    )


def _never_changes(field: str, attribute: str, name: str) -> Rule:
    return Rule(
        name=name,
        field=field,
        cel=f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        holds=lambda self, old: getattr(self, attribute) == getattr(old, attribute),
        rule="must not change",
        shows_value=False,
        remedy="make another FlashModel and name it in the deployments: what they run must not change under them",
        of_change=True,
    )


class CachedSource(ApiModel):
    """Where the weights of a FlashModel come from."""

    source: SourceUri = Field(
        description="URI of the model: builtin, hf, http(s), pvc, s3, gs or oci. Example: hf://allenai/OLMoE-1B-7B-0924."
    )


# Fields of the last base come first, in `kubectl explain` and in the reference.
class FlashModelSpec(Pinned, CachedSource):
    """Which weights to keep ready, and where."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        *SOURCE_RULES,
        Rule(
            name="CachedSourceIsNoFile",
            field="source",
            cel="!self.source.startsWith('file://')",
            holds=lambda self: scheme(self.source) != "file",
            rule="must not be a file: there is nothing to download",
            remedy="name the file in spec.model.source of the FlashDeployment instead",
        ),
        _never_changes("source", "source", "CachedSourceNeverChanges"),
        _never_changes("revision", "revision", "CachedRevisionNeverChanges"),
        _never_changes("sha256", "sha256", "CachedDigestNeverChanges"),
        Rule(
            name="CachedResidencyIsNeverRemoved",
            field="residency",
            cel="!has(oldSelf.residency) || has(self.residency)",
            holds=lambda self, old: old.residency is None or self.residency is not None,
            rule="must not be removed",
            shows_value=False,
            remedy="make another FlashModel without residency: what was promised for this one stays promised",
            of_change=True,
        ),
    )

    variants: Annotated[list[Variant], Field(min_length=1, max_length=3), AfterValidator(each_once)] = Field(
        default=[Variant.LITE],
        json_schema_extra=LIST_AS_SET,
        description="Variants to pack; a deployment can only use one that is packed. Example: [Lite, Nano].",
    )
    cache: ModelCache = Field(default=ModelCache(), description="The volume that holds the packed model.")
    resources: Resources = Field(
        default=Resources(memory="4Gi"),
        description="CPU and memory of a pod that downloads and packs. Example: {cpu: '4', memory: 8Gi}.",
    )
    residency: Residency | None = Field(
        default=None, description="Regions that the download and the volume stay in; unset = anywhere in the cluster."
    )

    @property
    def uri(self) -> str:
        """The source."""
        return self.source


class FlashModel(ApiModel):
    """Weights that are downloaded, verified and packed once, and shared by every FlashDeployment that names them."""

    cel_rules: ClassVar[tuple[Rule, ...]] = NAME_RULES

    api_version: Literal["flashplane.dev/v1alpha1"] = "flashplane.dev/v1alpha1"
    kind: Literal["FlashModel"] = "FlashModel"
    metadata: ObjectMeta
    spec: FlashModelSpec = Field(description="Which weights to keep ready, and where.")
    status: FlashModelStatus = Field(default=FlashModelStatus(), description="What is; written by the operator.")
