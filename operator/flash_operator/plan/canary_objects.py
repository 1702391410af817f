"""The objects of a trial: what there is beside the plan, and what of it stays as it was found until the trial is over.

The former revision is read from the engine Deployment that lives, which keeps its planned pod template with it, and
whose configuration is in a ConfigMap of its own. Nothing of it is kept anywhere else, so whoever finds the objects can
go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.canary_drafts import OUR_ANNOTATIONS, TrialDrafts, config_map_name, draft_revision_of
from flash_operator.plan.engine import engine_deployment
from flash_operator.plan.metadata import Manifest, content_hash
from flash_operator.plan.network import engine_service
from flash_operator.plan.network_policies import engine_policy, gateway_policy
from flash_operator.plan.pod_templates import with_planned_template
from flash_operator.plan.service_accounts import service_account
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel, resolved


@dataclass(frozen=True)
class Trial:
    """How many pods each side has; `canary` None = the new revision does not run."""

    stable: int
    canary: int | None


def canary_surroundings(deployment: FlashDeployment, settings: PlanSettings) -> tuple[Manifest, ...]:
    """What the pods of a canary need around them. It is there before the first trial, so that the name is known."""
    return (
        service_account(deployment, names.COMPONENT_CANARY),
        engine_policy(deployment, settings, names.COMPONENT_CANARY),
        engine_service(deployment, names.COMPONENT_CANARY),
    )


def on_trial(
    planned: Sequence[Manifest],
    live: Sequence[Manifest],
    deployment: FlashDeployment,
    settings: PlanSettings,
    trial: Trial,
    shared: SharedModel | None = None,
) -> tuple[tuple[Manifest, ...], frozenset[str]]:
    """The plan as it is carried out during a trial, and the names of ConfigMaps that must not go."""
    deployment, shared = resolved(deployment, shared)
    name = deployment.metadata.name
    engine, gateway = names.engine_name(name), names.gateway_name(name)
    living = {each["metadata"]["name"]: with_planned_template(each) for each in live if each["kind"] == "Deployment"}
    new = {each["metadata"]["name"]: each for each in planned if each["kind"] == "Deployment"}
    kept = config_map_name(living[engine])
    former = _of_former_model(deployment, live, kept)
    drafts = TrialDrafts(name, former=draft_revision_of(living[engine]), new=draft_revision_of(new[engine]))
    former = drafts.of_former(former)
    new_config = next(each for each in planned if each["metadata"]["name"] == config_map_name(new[engine]))
    instead: dict[tuple[str, str], tuple[Manifest, ...]] = {
        ("Deployment", engine): (_held(living[engine], new[engine], trial.stable),),
        ("NetworkPolicy", engine): (engine_policy(former, settings),),
        ("NetworkPolicy", gateway): (gateway_policy(former, settings),),
    }
    if trial.canary is None:
        instead["ConfigMap", new_config["metadata"]["name"]] = ()
        instead |= dict.fromkeys(drafts.of_new_alone(new), ())
    else:
        instead |= drafts.for_canaries(new, trial.canary)
        instead["Deployment", engine] += (
            engine_deployment(
                deployment,
                new_config,
                settings,
                replicas=trial.canary,
                component=names.COMPONENT_CANARY,
                revision=new[engine]["metadata"]["labels"][names.LABEL_REVISION],
                draft_revision=drafts.new,
                shared=shared,
            ),
        )
    if gateway in living and _pull(living[gateway]) != _pull(new[gateway]):
        # A gateway turns text into the tokens of one model. Until the new one is everywhere, it is that of the former.
        replicas = new[gateway]["spec"]["replicas"]
        instead["Deployment", gateway] = (_held(living[gateway], new[gateway], replicas, new_config=True),)
    carried_out = [
        found for each in planned for found in instead.get((each["kind"], each["metadata"]["name"]), (each,))
    ]
    carried_out += drafts.of_stable(living)
    return tuple(carried_out), frozenset({kept}) | drafts.kept(living)


def _held(live: Manifest, new: Manifest, replicas: int, *, new_config: bool = False) -> Manifest:
    """A Deployment as it was, with another number of pods, and with the new configuration where that is asked for."""
    spec: dict[str, Any] = {**live["spec"], "replicas": replicas}
    spec.pop("paused", None)
    if new["spec"].get("paused"):
        spec["paused"] = True
    meta = live["metadata"]
    # Which revision it is, its own labels say, or nothing does.
    own = (names.LABEL_REVISION, names.LABEL_CONFIG_HASH, names.LABEL_DRAFT_REVISION)
    labels = {key: value for key, value in new["metadata"]["labels"].items() if key not in own}
    labels |= {key: value for key, value in (meta.get("labels") or {}).items() if key in own}
    if new_config:
        digest = {names.LABEL_CONFIG_HASH: new["metadata"]["labels"][names.LABEL_CONFIG_HASH]}
        labels |= digest
        spec["template"] = _configured(spec["template"], digest, config_map_name(new))
    annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if key in OUR_ANNOTATIONS}
    body: dict[str, Any] = {
        "apiVersion": new["apiVersion"],
        "kind": new["kind"],
        "metadata": {
            **{key: value for key, value in new["metadata"].items() if key not in ("labels", "annotations")},
            "labels": labels,
        },
        "spec": spec,
    }
    annotations = annotations or {names.ANNOTATION_PLAN_HASH: content_hash(body)}
    return {**body, "metadata": {**body["metadata"], "annotations": annotations}}


def _configured(template: Manifest, digest: Mapping[str, str], config_map: str) -> dict[str, Any]:
    volumes = [
        {**volume, "configMap": {**volume["configMap"], "name": config_map}} if volume["name"] == "config" else volume
        for volume in template["spec"]["volumes"]
    ]
    labels = {**template["metadata"]["labels"], **digest}
    return {
        **template,
        "metadata": {**template["metadata"], "labels": labels},
        "spec": {**template["spec"], "volumes": volumes},
    }


def _of_former_model(deployment: FlashDeployment, live: Sequence[Manifest], config_map: str) -> FlashDeployment:
    """With the source from which the pods of the former revision pull."""
    found = next((each for each in live if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", config_map)), None)
    (text,) = ((found or {}).get("data") or {"": "{}"}).values()
    try:
        source = json.loads(text).get("source")
    except (ValueError, AttributeError):
        source = None
    if not isinstance(source, str):
        return deployment
    if "://" not in source:  # it was a FlashModel: its pods mount, and ask no source
        source = None
    model = deployment.spec.model.model_copy(update={"source": source})
    return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"model": model})})


def _pull(manifest: Manifest) -> list[Any]:
    """What a pod takes its model from: a pull, or the folder of a volume."""
    pod = manifest["spec"]["template"]["spec"]
    pulls = [each.get("args") for each in pod.get("initContainers") or () if each["name"] == names.CONTAINER_PULL]
    claims = [each["persistentVolumeClaim"] for each in pod["volumes"] if "persistentVolumeClaim" in each]
    folders = [mount.get("subPath") for each in pod["containers"] for mount in each.get("volumeMounts") or ()]
    return [*pulls, *claims, *(folder for folder in folders if folder)]
