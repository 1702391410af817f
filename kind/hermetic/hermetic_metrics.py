"""metrics-server, where a cluster is asked for it: how much CPU and memory pods take, as `kubectl top` and autoscalers
read it. Manifests, as plain data; the names and rights are those of its own release.
"""

import base64
from pathlib import Path
from typing import Any

from hermetic_pki import Pair

METRICS_IMAGE = "flashplane.dev/hermetic/metrics-server:1"
METRICS_API = "/apis/metrics.k8s.io/v1beta1"
SERVER_NAMES = ("metrics-server.kube-system.svc",)
"""What the API server calls it."""
PORT = 10250
RESOLUTION_SECONDS = 15
"""Between two looks at the kubelets; the least that is recommended. Two looks make a rate of CPU."""
_LABELS = {"k8s-app": "metrics-server"}
_NAME = {"name": "metrics-server", "namespace": "kube-system"}
_RBAC = "rbac.authorization.k8s.io"
_AUTHORITY = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


def metrics_server(serving: Pair, authority: Path) -> list[dict[str, Any]]:
    """A Deployment of one pod behind the aggregated API; `serving` is signed by `authority`."""
    container = {
        "name": "metrics-server",
        "image": METRICS_IMAGE,
        "args": [
            f"--secure-port={PORT}",
            "--tls-cert-file=/keys/tls.crt",
            "--tls-private-key-file=/keys/tls.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-use-node-status-port",
            f"--kubelet-certificate-authority={_AUTHORITY}",
            f"--metric-resolution={RESOLUTION_SECONDS}s",
        ],
        "ports": [{"name": "https", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "https", "scheme": "HTTPS"}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "https", "scheme": "HTTPS"}},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "metrics-server",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "keys", "secret": {"secretName": "metrics-server"}}],
    }
    keys = {"tls.crt": _encoded(serving.certificate), "tls.key": _encoded(serving.key)}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _NAME},
        {"apiVersion": "v1", "kind": "Secret", "metadata": _NAME, "type": "kubernetes.io/tls", "data": keys},
        *_rights(),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**_NAME, "labels": _LABELS},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**_NAME, "labels": _LABELS},
            "spec": {"selector": _LABELS, "ports": [{"name": "https", "port": 443, "targetPort": "https"}]},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "service": _NAME,
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "caBundle": _encoded(authority),
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]


def _rights() -> list[dict[str, Any]]:
    """It reads kubelets' figures, and lets the API server decide who may read its own."""
    rules = [
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
    ]
    api, subjects = f"{_RBAC}/v1", [{"kind": "ServiceAccount", **_NAME}]

    def binding(kind: str, metadata: dict[str, str], role_kind: str, role: str) -> dict[str, Any]:
        ref = {"apiGroup": _RBAC, "kind": role_kind, "name": role}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, "roleRef": ref, "subjects": subjects}

    ours, delegator = "system:metrics-server", "metrics-server:system:auth-delegator"
    reader = {"name": "metrics-server-auth-reader", "namespace": "kube-system"}
    return [
        {"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": ours}, "rules": rules},
        binding("ClusterRoleBinding", {"name": ours}, "ClusterRole", ours),
        binding("ClusterRoleBinding", {"name": delegator}, "ClusterRole", "system:auth-delegator"),
        binding("RoleBinding", reader, "Role", "extension-apiserver-authentication-reader"),
    ]


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
