"""The command lines of etcd, kube-apiserver and kube-controller-manager, and how to see that etcd is up.

Pure apart from that one look: paths and a port in, arguments out. Does not start anything.
"""

import http.client
import socket
from dataclasses import dataclass
from pathlib import Path

from hermetic_binaries import Binaries
from hermetic_pki import Pki

SERVER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
)


@dataclass(frozen=True)
class Addresses:
    """Where a control plane is seen from. The defaults are those of one that has no nodes."""

    services: str = "10.96.0.0/16"
    kubernetes: str = "10.96.0.1"
    """The Service `kubernetes`: the first address of `services`."""
    advertised: str | None = None
    """Where pods and nodes reach the API server, by the port that it has on 127.0.0.1."""

    @property
    def server_names(self) -> tuple[str, ...]:
        """Everything that the API server is called."""
        return (*SERVER_NAMES, self.kubernetes, *((self.advertised,) if self.advertised else ()))


@dataclass(frozen=True)
class Audit:
    """Where the API server reads what to record, and where it records."""

    policy: Path
    log: Path


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    # Who asked for what, of programs that are under test; kube-system's and the administrator's calls are left out.
    "rules": [
        {"level": "None", "userGroups": ["system:masters", "system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "None", "nonResourceURLs": ["*"]},
        # What programs say of our own objects, word for word: tests judge every status.
        {
            "level": "Request",
            "userGroups": ["system:serviceaccounts"],
            "verbs": ["patch"],
            "resources": [{"group": "flashplane.dev", "resources": ["*/status"]}],
        },
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def etcd_command(binaries: Binaries, *, data: Path, listen: Path, listen_peer: Path) -> list[str]:
    """etcd on a Unix socket: it has no users of its own, so the directory's permissions guard every Secret."""
    return [
        str(binaries.etcd),
        f"--data-dir={data}",
        f"--listen-client-urls=unix://{listen}",
        # Only other members would use these, and there are none. A Unix socket is refused as an advertised address.
        f"--listen-peer-urls=unix://{listen_peer}",
        "--advertise-client-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",  # a crash loses the data, and the data dies with the control plane anyway
        "--log-level=warn",
    ]


def etcd_is_healthy(listen: Path) -> bool:
    """Whether etcd answers on its Unix socket and has a leader."""
    connection = http.client.HTTPConnection("localhost", timeout=1.0)
    try:
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.settimeout(1.0)
            unix_socket.connect(str(listen))
            connection.sock = unix_socket
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def apiserver_command(
    binaries: Binaries, pki: Pki, *, etcd: Path, port: int, audit: Audit, addresses: Addresses
) -> list[str]:
    """The API server with the authorization, admission and aggregation that a production cluster has."""
    return [
        str(binaries.kube_apiserver),
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # SO_REUSEPORT: the owner of the control plane keeps the port bound (without listening) from choosing it
        # until the end, so that no other program can take it in between.
        "--permit-port-sharing=true",
        *_advertised(addresses.advertised),
        f"--service-cluster-ip-range={addresses.services}",
        f"--kubelet-client-certificate={pki.kubelet_client.certificate}",
        f"--kubelet-client-key={pki.kubelet_client.key}",
        f"--kubelet-certificate-authority={pki.authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--etcd-servers=unix://{etcd}",
        f"--tls-cert-file={pki.apiserver.certificate}",
        f"--tls-private-key-file={pki.apiserver.key}",
        f"--client-ca-file={pki.authority.certificate}",
        "--authorization-mode=Node,RBAC",
        # Not a default, but in use: who makes an object that blocks its owner's deletion needs a right on the owner.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--audit-policy-file={audit.policy}",
        f"--audit-log-path={audit.log}",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki.service_account.private}",
        f"--service-account-key-file={pki.service_account.public}",
        f"--proxy-client-cert-file={pki.front_proxy_client.certificate}",
        f"--proxy-client-key-file={pki.front_proxy_client.key}",
        f"--requestheader-client-ca-file={pki.front_proxy_authority.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--profiling=false",
    ]


def _advertised(address: str | None) -> list[str]:
    if address is None:
        # A Service may not have loopback endpoints, so the Service "kubernetes" has none here; without an explicit
        # address a machine with no default route could not start the server at all.
        return ["--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]
    # It calls Services itself and asks their pods, because the host has no rules that balance.
    return [f"--advertise-address={address}", "--enable-aggregator-routing=true"]


def controller_manager_command(binaries: Binaries, pki: Pki, *, kubeconfig: Path, volume_plugins: Path) -> list[str]:
    """All default controllers, each under a service account of its own, as in a production cluster."""
    return [
        str(binaries.kube_controller_manager),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki.service_account.private}",
        f"--root-ca-file={pki.authority.certificate}",
        f"--cluster-signing-cert-file={pki.authority.certificate}",
        f"--cluster-signing-key-file={pki.authority.key}",
        # The defaults (20 and 30) are meant for big clusters with patient users; each test waits for the controllers.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--horizontal-pod-autoscaler-sync-period=1s",
        "--bind-address=127.0.0.1",
        # It creates this folder; the default is in /usr/libexec.
        f"--flex-volume-plugin-dir={volume_plugins}",
        "--secure-port=0",  # nothing reads its metrics, so it opens no port
        "--profiling=false",
    ]


def scheduler_command(program: Path, *, kubeconfig: Path) -> list[str]:
    """The default scheduler."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--bind-address=127.0.0.1",
        "--secure-port=0",
        "--profiling=false",
    ]
