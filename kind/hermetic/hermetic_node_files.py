"""What a node's programs read: configurations as text, and the script that lays out its file systems. Pure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermetic_network import Network
from hermetic_pki import Pair

PAUSE_IMAGE = "flashplane.dev/hermetic/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
DOMAIN = "cluster.local"
# The kubelet sets these for the whole machine; inside a node they are files of ours.
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class NodeSpec:
    """One node of a cluster."""

    number: int
    name: str
    region: str
    zone: str

    @property
    def labels(self) -> str:
        return f"topology.kubernetes.io/region={self.region},topology.kubernetes.io/zone={self.zone}"


def layout_script(directory: Path, hostname: str) -> str:
    """The first process of a node: its own /run, /var/lib and /var/log, then nothing but reaping orphans."""
    binds = "\n".join(
        f"mount --bind {directory}/tunables/{name.replace('/', '.')} /proc/sys/{name}" for name in TUNABLES
    )
    return f"""\
set -eu
hostname {hostname}
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind {directory}/lib /var/lib
mount --bind {directory}/log /var/log
mkdir /run/lock /run/netns
{binds}
echo 1 > /proc/sys/net/ipv4/ip_forward
touch {directory}/laid-out
trap '' CHLD
exec sleep infinity
"""


def containerd_config(*, runtime: Path, cni: Path) -> str:
    """containerd's TOML. `runtime` is the folder of the CNI plugins, `cni` that of the network's description."""
    cri = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[{cri}]
  # Where CAP_SYS_RESOURCE is missing, no process may be made harder to kill than its parent.
  restrict_oom_score_adj = true
  disable_apparmor = true

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  Root = "/run/runc"
  SystemdCgroup = false

[{cri}.cni]
  bin_dirs = ["{runtime}"]
  conf_dir = "{cni}"
"""


def cni_config(pods: str) -> str:
    """One pair of interfaces for each pod, so that also pods of one node reach each other through its rules."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "cluster",
            "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": ipam},
                {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}},
            ],
        },
        indent=2,
    )


def kubelet_config(network: Network, *, authority: Path, serving: Pair, directory: Path, cgroup: str) -> str:
    """The kubelet's, as JSON."""
    return _document(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        authentication={
            "x509": {"clientCAFile": str(authority)},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        authorization={"mode": "Webhook"},
        tlsCertFile=str(serving.certificate),
        tlsPrivateKeyFile=str(serving.key),
        clusterDNS=[network.dns],
        clusterDomain=DOMAIN,
        resolvConf=str(directory / "resolv.conf"),
        containerRuntimeEndpoint=f"unix://{CONTAINERD_SOCKET}",
        cgroupDriver="cgroupfs",
        cgroupRoot=f"/{cgroup}",
        failCgroupV1=False,
        failSwapOn=False,
        oomScoreAdj=0,
        makeIPTablesUtilChains=False,
        volumePluginDir=str(directory / "volume-plugins"),
        # The disk and the memory are shared with everything else on the machine.
        evictionHard={"memory.available": "50Mi", "nodefs.available": "100Mi", "imagefs.available": "100Mi"},
        imageGCHighThresholdPercent=100,
        # The default, 1 minute, makes who waits for a changed ConfigMap or Secret wait long.
        syncFrequency="10s",
        configMapAndSecretChangeDetectionStrategy="Watch",
        logging={"verbosity": 1},
    )


def kube_proxy_config(network: Network, *, node: str, address: str, kubeconfig: Path) -> str:
    """kube-proxy's, as JSON."""
    return _document(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        mode="nftables",
        hostnameOverride=node,
        bindAddress=address,
        clusterCIDR=network.pods,
        clientConnection={"kubeconfig": str(kubeconfig)},
        # Zero: these are the machine's.
        conntrack={"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        nftables={"minSyncPeriod": "0s"},
        oomScoreAdj=0,
    )


def _document(api_version: str, kind: str, **fields: Any) -> str:
    return json.dumps({"apiVersion": api_version, "kind": kind, **fields}, indent=2)
