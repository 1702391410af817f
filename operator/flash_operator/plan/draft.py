"""The draft Deployments: pods that run a small model ahead of the engines, near them and of their revision.

Each revision of the engines has draft pods of its own, under a name of its own: old ones live for as long as old
engines may ask them, and no engine can find those of another revision. Within a revision they replace each other
without a surge, since a draft that is missing for a moment costs speed and no request, and a second one might find no
room.
"""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.engine import Draft, DraftPlacement
from flash_api.v1alpha1.flashdeployment import REGION_LABEL, FlashDeployment
from flash_api.v1alpha1.resources import Resources
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest, owned_object
from flash_operator.plan.model_in_pods import model_of_draft_pods
from flash_operator.plan.server_pod import server_container, server_volumes
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel

_PLACES: Final = {
    DraftPlacement.SAME_NODE: "kubernetes.io/hostname",
    DraftPlacement.SAME_ZONE: "topology.kubernetes.io/zone",
    DraftPlacement.SAME_REGION: REGION_LABEL,
}


def draft_labels(revision: str) -> dict[str, str]:
    """What the draft pods of a revision and the engine pods that ask them have in common; none for no revision."""
    return {names.LABEL_DRAFT_REVISION: revision} if revision else {}


def draft_service(deployment: FlashDeployment, revision: str) -> Manifest:
    """Headless: its name resolves to the address of each ready draft pod of the revision."""
    selected = names.pod_selector(deployment.metadata.name, names.COMPONENT_DRAFT) | draft_labels(revision)
    return owned_object(
        deployment,
        names.COMPONENT_DRAFT,
        api_version="v1",
        kind="Service",
        name=names.drafts_name(deployment.metadata.name, revision),
        extra_labels=draft_labels(revision),
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": selected,
            "ports": [
                {
                    "name": "grpc",
                    "port": names.PORT_ENGINE_GRPC,
                    "targetPort": names.PORT_ENGINE_GRPC,
                    "protocol": "TCP",
                }
            ],
        },
    )


def draft_deployment(
    deployment: FlashDeployment,
    draft: Draft,
    config_map: Manifest,
    settings: PlanSettings,
    *,
    revision: str,
    replicas: int,
    shared: SharedModel | None = None,
) -> Manifest:
    """The draft pods of one revision. `shared` is the FlashModel that spec.draft.model names."""
    resources = draft.resources or Resources()
    model = model_of_draft_pods(deployment, draft, shared, settings=settings, wanted=resources)
    container = server_container(
        "draft",
        settings,
        command="flash-draft",
        config_file=names.FILE_DRAFT_CONFIG,
        canary=("--draft",),
        models=(model,),
        shared=shared,
        wanted=resources,
    )
    return pods.deployment_of_pods(
        deployment,
        names.COMPONENT_DRAFT,
        name=names.drafts_name(deployment.metadata.name, revision),
        replicas=replicas,
        config_map=config_map,
        model=pods.near(model, _affinity(deployment, draft.placement or DraftPlacement.SAME_NODE, revision)),
        containers=[container],
        volumes=server_volumes(config_map, model),
        surge=0,
        settings=settings,
        chosen_by=draft_labels(revision),
        annotations={names.ANNOTATION_BASE_IMAGE: settings.engine_image_base},
    )


def _affinity(deployment: FlashDeployment, placement: DraftPlacement, revision: str) -> dict[str, Any]:
    """Draft pods go where engine pods of their revision are; engine pods ask for nothing, so neither waits for the
    other's wait.

    Required, not preferred: both are made at once, and a draft that is placed before its engine would stay where it
    fell. Where it has no room it waits, which the status says, and engines go on without it: a draft further away than
    the spec allows takes the room of something useful.
    """
    engines: dict[str, Any] = {
        "matchLabels": {names.LABEL_DEPLOYMENT: deployment.metadata.name, **draft_labels(revision)},
        "matchExpressions": [
            {
                "key": names.LABEL_COMPONENT,
                "operator": "In",
                "values": [names.COMPONENT_CANARY, names.COMPONENT_ENGINE],
            }
        ],
    }
    term = {"labelSelector": engines, "topologyKey": _PLACES[placement]}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
