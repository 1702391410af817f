"""The Jobs that fill a FlashModel's volume: one for each variant, so that one that is added leaves the others alone.

A Job's name holds the hash of its pods, since those cannot be changed: another image is another Job. Each variant has
a folder of its own on the volume; the downloads beside them are shared.
"""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_api.v1alpha1.source import Variant
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest, content_hash, labels, owned_object
from flash_operator.plan.model_cache import cache_bytes
from flash_operator.plan.model_in_pods import claim_volume, on_one_node, user_labels
from flash_operator.plan.placement import affinity
from flash_operator.plan.settings import PlanSettings

BACKOFF_LIMIT: Final = 6
"""Pods that may fail before the Job does. The controller waits longer after each, from 10 s to 6 min."""
HOPELESS_EXIT_CODES: Final = (2, 3)
"""Of `flash-pull`: what was asked for is not supported, or the weights are not there or not the ones that were pinned.
The next pod would end the same way."""
_DEADLINE_LEAST_SECONDS: Final = 30 * 60
_BYTES_PER_SECOND: Final = 4 * 1024**2
"""A slow line, over which as much comes as the volume holds. What has arrived by the deadline is kept."""


def deadline_seconds(size_bytes: int) -> int:
    """Half an hour and the time to fill the volume at 4 MiB/s."""
    return _DEADLINE_LEAST_SECONDS + size_bytes // _BYTES_PER_SECOND


def pull_jobs(model: FlashModel, settings: PlanSettings) -> tuple[Manifest, ...]:
    """One for each variant, in the order of the spec."""
    return tuple(pull_job(model, variant, settings) for variant in model.spec.variants)


def pull_job(model: FlashModel, variant: Variant, settings: PlanSettings) -> Manifest:
    """Fetches, verifies and packs one variant into its folder of the volume."""
    spec = _job_spec(model, variant, settings)
    name = f"{names.pull_name(model.metadata.name)}-{variant.lower()}-{content_hash(spec['template'])}"
    return owned_object(model, names.COMPONENT_PULL, api_version="batch/v1", kind="Job", name=name, spec=spec)


def _job_spec(model: FlashModel, variant: Variant, settings: PlanSettings) -> dict[str, Any]:
    wanted = model.spec
    pull = pods.pull_container(
        wanted,
        variant,
        image=settings.engine_image,
        settings=settings,
        wanted=wanted.resources,
        to=f"{names.DIR_MODELS}/{variant}",
        flags=("--tell-digest",),
    )
    near = {
        **(affinity(wanted.residency) if wanted.residency is not None else {}),
        **(on_one_node(model.metadata.name) if wanted.cache.access_mode == "ReadWriteOnce" else {}),
    }
    rules = [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": names.CONTAINER_PULL,
                "operator": "In",
                "values": list(HOPELESS_EXIT_CODES),
            },
        },
        # A node that is drained is no failure of the pull.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "backoffLimit": BACKOFF_LIMIT,
        # It bounds one Job only: the operator makes another one later, which goes on where this one broke off.
        "activeDeadlineSeconds": deadline_seconds(cache_bytes(model)),
        "podFailurePolicy": {"rules": rules},
        "template": {
            "metadata": {
                "labels": {**labels(model, names.COMPONENT_PULL), **user_labels(model.metadata.name)},
                "annotations": {names.ANNOTATION_VARIANT: str(variant)},
            },
            "spec": {
                "serviceAccountName": names.pull_name(model.metadata.name),
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "restartPolicy": "Never",
                **pods.pull_secrets(settings),
                # Otherwise the owner of every file on the volume is set anew at each mount.
                "securityContext": {**pods.pod_security(), "fsGroupChangePolicy": "OnRootMismatch"},
                **({"affinity": near} if near else {}),
                "containers": [pull],
                "volumes": [
                    claim_volume(model.metadata.name),
                    pods.scratch_volume("tmp"),
                    *pods.source_access(wanted)[0],
                ],
            },
        },
    }
