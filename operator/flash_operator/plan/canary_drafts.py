"""The draft pods of a trial: each side has its own, so engines of one can never be answered by drafts of the other.

Those of the former revision stay as they live; those of the new one are no more than the engines on trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flash_api import names
from flash_api.v1alpha1.engine import Draft
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.source import ModelChoice
from flash_operator.plan.metadata import Manifest, content_hash

Identity = tuple[str, str]


@dataclass(frozen=True)
class TrialDrafts:
    """Of one FlashDeployment, by name."""

    deployment: str
    former: str
    """Revision of those that the stable engines ask; empty = they ask none."""
    new: str

    def kept(self, living: Mapping[str, Manifest]) -> frozenset[str]:
        """Names of what must not go while stable engines may ask theirs. `living` are Deployments by name."""
        if not self.former or self.former == self.new:
            return frozenset()
        name = names.drafts_name(self.deployment, self.former)
        config = {config_map_name(living[name])} if name in living else set()
        return frozenset({name, names.draft_name(self.deployment), *config})

    def of_stable(self, living: Mapping[str, Manifest]) -> tuple[Manifest, ...]:
        """The Deployment of those that the stable engines ask, as it lives; none where it is planned anyway."""
        name = names.drafts_name(self.deployment, self.former)
        if not self.former or self.former == self.new or name not in living:
            return ()
        live = living[name]
        meta = {key: value for key, value in live["metadata"].items() if key in _IDENTITY}
        annotations = live["metadata"].get("annotations") or {}
        meta["annotations"] = {key: annotations[key] for key in OUR_ANNOTATIONS if key in annotations}
        return ({"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": meta, "spec": live["spec"]},)

    def for_canaries(self, planned: Mapping[str, Manifest], canaries: int) -> dict[Identity, tuple[Manifest, ...]]:
        """What to carry out instead of the planned ones, which are for every engine."""
        name = names.drafts_name(self.deployment, self.new)
        if not self.new or self.former == self.new:
            return {}
        return {("Deployment", name): (_at_most(planned[name], canaries),)}

    def of_new_alone(self, planned: Mapping[str, Manifest]) -> tuple[Identity, ...]:
        """What nobody needs while no engine is on trial."""
        if not self.new or self.former == self.new:
            return ()
        name = names.drafts_name(self.deployment, self.new)
        kinds = ("Deployment", "Service", "NetworkPolicy")
        return (*((kind, name) for kind in kinds), ("ConfigMap", config_map_name(planned[name])))

    def of_former(self, deployment: FlashDeployment) -> FlashDeployment:
        """With draft pods where the stable engines have some: policies must not part them."""
        if not self.former:
            return deployment
        draft = Draft(model=ModelChoice(source=_SOMEWHERE))
        return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"draft": draft})})


OUR_ANNOTATIONS: Final = (names.ANNOTATION_PLAN_HASH, names.ANNOTATION_POD_TEMPLATE)
"""Annotations of a Deployment that we write; its controller has some of its own."""
_IDENTITY: Final = ("name", "namespace", "labels", "ownerReferences")
_SOMEWHERE: Final = "builtin://former"
"""What the former drafts pull is their own policy's matter, which stays as it lives."""


def draft_revision_of(manifest: Manifest) -> str:
    """Which draft pods the pods of a Deployment belong to, as it lives; empty = to none."""
    return str((manifest["metadata"].get("labels") or {}).get(names.LABEL_DRAFT_REVISION) or "")


def config_map_name(manifest: Manifest) -> str:
    """The ConfigMap that the pods of a Deployment read; empty = none."""
    volumes = manifest["spec"]["template"]["spec"].get("volumes") or ()
    return next((str(each["configMap"]["name"]) for each in volumes if each["name"] == "config"), "")


def _at_most(manifest: Manifest, replicas: int) -> Manifest:
    if manifest["spec"]["replicas"] <= replicas:
        return manifest
    meta = {**manifest["metadata"], "annotations": dict(manifest["metadata"]["annotations"])}
    del meta["annotations"][names.ANNOTATION_PLAN_HASH]
    body = {**manifest, "metadata": meta, "spec": {**manifest["spec"], "replicas": replicas}}
    meta["annotations"][names.ANNOTATION_PLAN_HASH] = content_hash(body)
    return body
