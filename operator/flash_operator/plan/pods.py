"""What our pods have in common: the restricted security profile, volumes, resources, the Deployment around them, and
how it replaces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from flash_api import names
from flash_api.quantities import canonical
from flash_api.v1alpha1.base import SecretKeyRef
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Resources, Rollout
from flash_api.v1alpha1.source import Variant, scheme
from flash_operator.plan.metadata import Manifest, content_hash, labels, owned_object, selector
from flash_operator.plan.placement import scheduling
from flash_operator.plan.pod_templates import written_template
from flash_operator.plan.replicas import tries_revisions
from flash_operator.plan.settings import PlanSettings

LAST_WORDS: Final = "FallbackToLogsOnError"
"""Of a container that fails, the end of its log becomes its termination message, so that the status can quote it."""
USER_ID: Final = 65532
"""The `nonroot` user of distroless images: no account with this number owns anything on a node."""

_HELD: Final = (names.COMPONENT_ENGINE, names.COMPONENT_DRAFT, names.COMPONENT_GATEWAY)
"""Components that may stay as they are during the trial of a revision."""

DRAIN_MAX_SECONDS: Final = 3600
"""A node that is to be drained should not wait longer for one request; the few that may run longer are cut off."""


def container_security() -> dict[str, Any]:
    """The container half of the *restricted* Pod Security Standard, and a read-only root on top."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def pod_security() -> dict[str, Any]:
    """The pod half of the *restricted* Pod Security Standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(wanted: Resources) -> dict[str, Any]:
    """`{resources: …}` with requests equal to limits, or nothing when nothing is asked for."""
    amounts = {
        kind: canonical(amount)
        for kind, amount in (("cpu", wanted.cpu), ("memory", wanted.memory))
        if amount is not None
    }
    return {"resources": {"requests": amounts, "limits": dict(amounts)}} if amounts else {}


def mount(volume: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    """One volumeMount."""
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def config_volume(config_map: Manifest) -> dict[str, Any]:
    """The volume with the role's configuration file."""
    return {"name": "config", "configMap": {"name": config_map["metadata"]["name"]}}


def scratch_volume(name: str, *, memory: bool = False) -> dict[str, Any]:
    """An empty folder that dies with the pod; in memory where the contents must not touch a disk or must be fast."""
    return {"name": name, "emptyDir": {"medium": "Memory"} if memory else {}}


class Weights(Protocol):
    """What says where weights come from: spec.model of a FlashDeployment, or the spec of a FlashModel."""

    @property
    def uri(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def credentials_secret_ref(self) -> SecretKeyRef | None: ...


def pull_container(
    weights: Weights,
    variant: Variant,
    *,
    image: str,
    settings: PlanSettings,
    wanted: Resources,
    to: str = names.DIR_MODELS,
    flags: Sequence[str] = (),
    name: str = names.CONTAINER_PULL,
    volume: str = "models",
) -> dict[str, Any]:
    """The container that fetches and packs a model (or only its text side) into the folder `to` of a volume.

    Its name tells the volumes of its source from those of another pull in the same pod.
    """
    args = ["--source", _source_in_pod(weights.uri), "--variant", str(variant)]
    if weights.revision is not None:
        args += ["--revision", weights.revision]
    if weights.sha256 is not None:
        args += ["--sha256", weights.sha256]
    args += ["--to", to, *flags]
    _, source_mounts, source_env = source_access(weights, name)
    root = names.DIR_DRAFT if volume == "draft" else names.DIR_MODELS
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["flash-pull"],
        "args": args,
        # Beside the result, so that it is linked rather than copied; the root file system is read-only.
        "env": [
            {"name": names.ENV_CACHE, "value": f"{root}/.cache"},
            *source_env,
            *(_index_env(settings.package_index) if scheme(weights.uri) == "builtin" else []),
        ],
        "volumeMounts": [mount(volume, root), mount("tmp", "/tmp"), *source_mounts],
        "terminationMessagePolicy": LAST_WORDS,
        "securityContext": container_security(),
        **resources(wanted),
    }


def source_access(
    weights: Weights, container: str = names.CONTAINER_PULL
) -> tuple[list[Manifest], list[Manifest], list[Manifest]]:
    """Volumes, mounts and environment that the source asks for; only the pull `container` sees them."""
    source = container.replace(names.CONTAINER_PULL, "source")
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    env: list[Manifest] = []
    if (ref := weights.credentials_secret_ref) is not None:
        file = names.FILE_SOURCE_TOKEN.rpartition("/")[2]
        items = [{"key": ref.key, "path": file}]
        volumes.append({"name": f"{source}-token", "secret": {"secretName": ref.name, "items": items}})
        mounts.append(mount(f"{source}-token", names.DIR_SOURCE_SECRET, read_only=True))
        env.append({"name": names.ENV_TOKEN_FILE, "value": names.FILE_SOURCE_TOKEN})
    if (claim := _claim(weights.uri)) is not None:
        volumes.append({"name": source, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append(mount(source, names.DIR_SOURCE, read_only=True))
    return volumes, mounts, env


def _index_env(index: str | None) -> list[Manifest]:
    """How pip finds the installation's index. It asks an index without TLS only where it is told to; what comes from
    there has a pinned digest."""
    if index is None:
        return []
    parts = urlsplit(index)
    plain = [{"name": "PIP_TRUSTED_HOST", "value": parts.netloc}] if parts.scheme == "http" else []
    return [{"name": "PIP_INDEX_URL", "value": index}, *plain]


def _claim(uri: str) -> str | None:
    """`claim` of `pvc://claim/path`."""
    scheme, _, rest = uri.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def _source_in_pod(uri: str) -> str:
    """The source as the pull container finds it: a claim is a folder there."""
    if _claim(uri) is None:
        return uri
    path = uri.partition("://")[2].partition("/")[2]
    return f"file://{names.DIR_SOURCE}/{path}".rstrip("/")


@dataclass(frozen=True)
class ModelInPods:
    """How the model comes into the pods of one component: pulled by each, or from a volume that pods share."""

    volume: Manifest
    """Called `models`."""
    mount: Manifest
    """Of the container that reads it."""
    init_containers: tuple[Manifest, ...] = ()
    source_volumes: tuple[Manifest, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    affinity: Manifest = field(default_factory=dict)
    """On top of what the deployment itself asks for."""


def near(model: ModelInPods, affinity: Manifest) -> ModelInPods:
    """With one more wish for its pods' place, beside those that the model brings."""
    merged: dict[str, Any] = dict(model.affinity)
    for kind, wishes in affinity.items():
        former = merged.get(kind, {})
        merged[kind] = {**former, **{when: [*former.get(when, ()), *terms] for when, terms in wishes.items()}}
    return replace(model, affinity=merged)


def drain_seconds(deployment: FlashDeployment) -> int:
    """How long running requests may go on after SIGTERM: as long as one may last. A pod without any stops at once."""
    return min(deployment.spec.gateway.limits.request_timeout_seconds, DRAIN_MAX_SECONDS)


def unroute_first(settings: PlanSettings) -> dict[str, Any]:
    """The container's lifecycle: it works on until no route leads to it any more, and is told to stop only then."""
    return {"lifecycle": {"preStop": {"sleep": {"seconds": settings.unroute_seconds}}}}


def pull_secrets(settings: PlanSettings) -> dict[str, Any]:
    """The pod's imagePullSecrets, where the installation has some."""
    named = [{"name": name} for name in settings.image_pull_secrets]
    return {"imagePullSecrets": named} if named else {}


def deployment_of_pods(
    deployment: FlashDeployment,
    component: str,
    *,
    name: str,
    replicas: int,
    config_map: Manifest,
    model: ModelInPods,
    containers: Sequence[Manifest],
    volumes: Sequence[Manifest],
    surge: int,
    settings: PlanSettings,
    annotations: Mapping[str, str] | None = None,
    revision: str = "",
    extra_labels: Mapping[str, str] | None = None,
    chosen_by: Mapping[str, str] | None = None,
) -> Manifest:
    """A Deployment that replaces pods one by one: with `surge` 1 the new one comes first, with 0 the old one goes.

    `revision` names the pod template; empty = it is named by its content. Pods are labelled with `extra_labels`, and
    with `chosen_by`, which tells them from those of another Deployment of the component.
    """
    rollout = deployment.spec.rollout or Rollout()
    grace = settings.unroute_seconds + drain_seconds(deployment) + settings.stop_margin_seconds
    digest = {names.LABEL_CONFIG_HASH: config_map["metadata"]["labels"][names.LABEL_CONFIG_HASH]}
    added = {**(extra_labels or {}), **(chosen_by or {}), **model.labels}
    template = {
        "metadata": {
            "labels": {**labels(deployment, component), **digest, **added},
            **({"annotations": dict(annotations)} if annotations else {}),
        },
        "spec": {
            "serviceAccountName": f"{deployment.metadata.name}-{component}",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": grace,
            "securityContext": pod_security(),
            **pull_secrets(settings),
            **scheduling(deployment, component, model.affinity),
            **({"initContainers": list(model.init_containers)} if model.init_containers else {}),
            "containers": list(containers),
            "volumes": [*volumes, *model.source_volumes],
        },
    }
    return owned_object(
        deployment,
        component,
        api_version="apps/v1",
        kind="Deployment",
        name=name,
        extra_labels={**digest, **added, names.LABEL_REVISION: revision or content_hash(template)},
        # What a trial holds on to is no longer planned, and a live template may have been edited.
        annotations=written_template(template) if tries_revisions(deployment) and component in _HELD else None,
        spec={
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": rollout.progress_deadline_seconds,
            **({"paused": True} if rollout.paused else {}),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1 - surge, "maxSurge": surge}},
            "selector": {"matchLabels": {**selector(deployment, component), **(chosen_by or {})}},
            "template": template,
        },
    )
