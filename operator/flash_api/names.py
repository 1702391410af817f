"""Every name that two parts of the system must agree on: API group, labels, ports, file paths, object names."""

from __future__ import annotations

from typing import Final

GROUP: Final = "flashplane.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FlashDeployment"
PLURAL: Final = "flashdeployments"
SHORT_NAME: Final = "fd"
CATEGORY: Final = "flash"
MODEL_KIND: Final = "FlashModel"
MODEL_PLURAL: Final = "flashmodels"
MODEL_SHORT_NAME: Final = "fm"

FIELD_MANAGER: Final = "flashplane"
"""The server-side apply field manager of everything the operator writes."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
"""On every object we own: the name of its FlashDeployment."""
LABEL_MODEL: Final = f"{GROUP}/model"
"""On every object of a FlashModel: its name."""
LABEL_USES_MODEL: Final = f"{GROUP}/uses-model"
"""On pods that mount the volume of a FlashModel, and on their Deployments: its name."""
LABEL_DRAFT_REVISION: Final = f"{GROUP}/draft-revision"
"""On draft pods and on the engine pods that they belong to, and on the Deployments of both: which belong together."""
LABEL_CONFIG_HASH: Final = f"{GROUP}/config-hash"
LABEL_REVISION: Final = f"{GROUP}/revision"
"""On Deployments: the digest of the planned pod template, which tells revisions apart."""
ANNOTATION_PLAN_HASH: Final = f"{GROUP}/plan-hash"
"""On every object we own: the digest of the plan it was applied from."""
ANNOTATION_POD_TEMPLATE: Final = f"{GROUP}/pod-template"
"""On Deployments whose revisions are tried: the planned pod template as JSON, to which pods are held during a trial."""
ANNOTATION_VARIANT: Final = f"{GROUP}/variant"
"""On pods that pull a FlashModel: the variant that they pack."""
MANAGED_BY: Final = "flashplane"

ANNOTATION_BASE_IMAGE: Final = "org.opencontainers.image.base.name"
"""The OCI key for the image that another one is built from."""

COMPONENT_ENGINE: Final = "engine"
COMPONENT_CANARY: Final = "canary"
"""Engines of a revision that is tried on a share of the requests."""
COMPONENT_DRAFT: Final = "draft"
COMPONENT_GATEWAY: Final = "gateway"
COMPONENT_PULL: Final = "pull"
"""Of a FlashModel: the pods that fetch and pack it."""
CONTAINER_PULL: Final = "pull"
"""The container that fetches the model; its last words name what it fetched."""
CONTAINER_PULL_DRAFT: Final = "pull-draft"
FILE_TERMINATION: Final = "/dev/termination-log"
"""Where a container leaves its last words; Kubernetes makes the file, a plain process has none."""

# Ports inside a pod. In local mode each is mapped to a free loopback port.
PORT_GATEWAY: Final = 8080
PORT_ENGINE_HTTP: Final = 8000
PORT_ENGINE_GRPC: Final = 8001
PORT_ENGINE_METRICS: Final = 8002

# Paths inside a container. In local mode each is mapped below the deployment's state directory.
DIR_CONFIG: Final = "/etc/flashplane"
DIR_MODELS: Final = "/var/lib/flashplane/models"
DIR_DRAFT: Final = "/var/lib/flashplane/draft"
DIR_SECRETS: Final = "/var/run/secrets/flashplane"
PACKED_MODEL: Final = "model.flash"
"""The packed model, in the models folder."""
FILE_ENGINE_CONFIG: Final = f"{DIR_CONFIG}/engine.json"
FILE_DRAFT_CONFIG: Final = f"{DIR_CONFIG}/draft.json"
FILE_GATEWAY_CONFIG: Final = f"{DIR_CONFIG}/gateway.json"
FILE_API_KEYS: Final = f"{DIR_SECRETS}/api-keys"
DIR_TLS: Final = "/var/run/secrets/flashplane-tls"
FILE_TLS_CERTIFICATE: Final = f"{DIR_TLS}/tls.crt"
FILE_TLS_KEY: Final = f"{DIR_TLS}/tls.key"
"""As the keys of a Secret of type kubernetes.io/tls are called."""
DIR_SOURCE_SECRET: Final = "/var/run/secrets/flashplane-source"
"""Mounted into the pull container alone."""
FILE_SOURCE_TOKEN: Final = f"{DIR_SOURCE_SECRET}/token"
DIR_SOURCE: Final = "/var/lib/flashplane/source"
"""The claim that a pvc:// source names, read only."""

ENV_HOSTS: Final = "FLASHPLANE_HOSTS"
"""A file that stands in for DNS where there is none (local mode): lines of `host:port address:port …`."""

ENV_CACHE: Final = "FLASHPLANE_CACHE"
"""The folder that keeps downloads and packed models; unset = `flashplane` in the user's cache folder."""

ENV_TOKEN_FILE: Final = "FLASHPLANE_TOKEN_FILE"
"""A file with the token that the model source asks for."""

METRIC_DESIRED_ENGINES: Final = "flashplane_desired_engine_pods"
"""The external metric that a HorizontalPodAutoscaler reads: the number of engine pods that autoscaling wants."""

TRITON_MODEL: Final = "engine"
"""The name of our one model in tritonserver's model repository."""
TRITON_DRAFT_MODEL: Final = "draft"
"""The name of a draft's, in its own."""


def engine_name(deployment: str) -> str:
    """The engine Deployment and its headless Service."""
    return f"{deployment}-engine"


def canary_name(deployment: str) -> str:
    """The Deployment of the engines on trial, their headless Service and their account."""
    return f"{deployment}-canary"


def draft_name(deployment: str) -> str:
    """What draft pods of all revisions share: their account and PodDisruptionBudget."""
    return f"{deployment}-draft"


def drafts_name(deployment: str, revision: str) -> str:
    """The Deployment of one revision's draft pods, their headless Service and their NetworkPolicy."""
    return f"{draft_name(deployment)}-{revision}"


def gateway_name(deployment: str) -> str:
    """The gateway Deployment and its Service."""
    return f"{deployment}-gateway"


def model_claim(model: str) -> str:
    """The PersistentVolumeClaim of a FlashModel."""
    return f"{model}-model"


def pull_name(model: str) -> str:
    """The ServiceAccount and the NetworkPolicy of the pods that pull a FlashModel; its Jobs begin with it."""
    return f"{model}-pull"


def service_host(service: str, namespace: str) -> str:
    """The DNS name of a Service."""
    return f"{service}.{namespace}.svc"


def pod_selector(deployment: str, component: str) -> dict[str, str]:
    """Labels that pick the pods of one component. Selectors are immutable, so this set never changes."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: component}
