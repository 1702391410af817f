"""A real Kubernetes cluster on this machine, without Docker and without an image registry: a control plane, and nodes
whose pods run.

    with Cluster(nodes=3) as cluster:
        cluster.load(Path("image.tar"))
        cluster.control_plane.kubectl("apply", "-f", "manifest.yaml")

Knows in which order the parts come up. Each node has a region and a zone; the first is in `eu`, the second in `us`,
the third in `jp`.

As a program: python kind/hermetic/cluster.py build|up|load|status|down
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from control_plane import ControlPlane
from hermetic_addons import DNS_IMAGE, dns
from hermetic_api import Response, certificate_user
from hermetic_errors import ControlPlaneFailed, NodeFailed
from hermetic_images import write_image
from hermetic_metrics import METRICS_API, METRICS_IMAGE, SERVER_NAMES, metrics_server
from hermetic_network import MAX_NODES, Network, fabric_commands, fabric_rules, free_block, host_commands
from hermetic_node import POLL_SECONDS, Access, Node, enter, ip, run
from hermetic_node_binaries import NodeBinaries, provide_metrics_server, provide_nodes
from hermetic_node_files import PAUSE_IMAGE, NodeSpec
from hermetic_privileges import require_privileges
from hermetic_processes import Program, ProgramGroup
from hermetic_programs import Addresses, scheduler_command

FORWARDER = Path(__file__).resolve().parent / "hermetic_forwarder.py"
ENFORCER = Path(__file__).resolve().parent / "hermetic_enforcer.py"
START_TIMEOUT_SECONDS = 180.0  # half a minute on an idle machine
REGIONS = ("eu", "us", "jp")


def node_spec(number: int) -> NodeSpec:
    """Node `number`, from 1: eu-1, us-1, jp-1, eu-2, …"""
    region = REGIONS[(number - 1) % len(REGIONS)]
    return NodeSpec(number, f"{region}-{(number - 1) // len(REGIONS) + 1}", region, f"{region}-a")


class Cluster:
    """One cluster. Several may run side by side; each can be started once.

    `crds` are manifests, or folders of them, that are there before the controllers start. `metrics` brings
    metrics-server.
    """

    def __init__(
        self,
        binaries: NodeBinaries | None = None,
        *,
        nodes: int = 1,
        crds: Sequence[Path] = (),
        metrics: bool = False,
        start_timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        if not 1 <= nodes <= MAX_NODES:
            raise ControlPlaneFailed(f"nodes ({nodes}) must be from 1 to {MAX_NODES}")
        self._binaries = binaries
        self._crds = crds
        self._metrics = metrics
        self._start_timeout_seconds = start_timeout_seconds
        self._specs = [node_spec(number) for number in range(1, nodes + 1)]
        self._group: ProgramGroup | None = None
        self._control_plane: ControlPlane | None = None
        self._network: Network | None = None
        self._fabric: Program | None = None
        self.nodes: dict[str, Node] = {}
        """By name."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when all nodes are Ready and DNS answers, and metrics-server where it is wanted.

        Raises PrivilegesMissing, BinariesUnavailable, BuildFailed, ControlPlaneFailed, NodeFailed, KubectlFailed;
        nothing is left behind then.
        """
        if self._group is not None:
            raise ControlPlaneFailed("this cluster was started before; make a new one")
        require_privileges()
        self._binaries = self._binaries or provide_nodes()
        self._group = ProgramGroup()
        try:
            self._start(self._group, self._binaries)
        except BaseException:
            self.stop()
            raise

    def _start(self, group: ProgramGroup, binaries: NodeBinaries) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        network = self._join_fabric(group, deadline)
        control_plane = self._control_plane = ControlPlane(
            binaries.control_plane,
            crds=self._crds,
            addresses=Addresses(services=network.services, kubernetes=network.kubernetes, advertised=network.host),
            group=group,
        )
        images = [self._pause_image(group.directory, binaries), self._dns_image(group.directory, binaries)]
        if self._metrics:
            files = {"/metrics-server": provide_metrics_server()}
            archive = group.directory / "metrics-server.tar"
            images.append(write_image(archive, METRICS_IMAGE, files, entrypoint=["/metrics-server"]))
        # Laying out nodes needs no API, and the control plane needs no node.
        with ThreadPoolExecutor(1) as pool:
            runtimes = pool.submit(self._start_runtimes, group, network, binaries, images, deadline)
            control_plane.start()
            runtimes.result()

        nft = self._in_fabric(str(binaries.nft), "-f", "-")
        run(nft, stdin=fabric_rules(network, control_plane.port))
        group.spawn("forwarder", [sys.executable, "-I", str(FORWARDER), network.host, str(control_plane.port)])
        pki, keys = control_plane.pki, group.directory / "keys"
        scheduler = pki.issuer.issue("system:kube-scheduler", keys / "scheduler")
        kubeconfig = control_plane.write_kubeconfig("scheduler", certificate_user(scheduler))
        group.spawn("kube-scheduler", scheduler_command(binaries.kube_scheduler, kubeconfig=kubeconfig))

        def write_kubeconfig(name: str, user: Mapping[str, str]) -> Path:
            url = f"https://{network.host}:{control_plane.port}"
            return control_plane.write_kubeconfig(name, user, url=url)

        access = Access(pki.issuer, pki.authority.certificate, write_kubeconfig)
        for node in self.nodes.values():
            node.start_kubernetes(access)
        self._start_enforcer(group, binaries, control_plane)
        self.apply(*dns(network))
        if self._metrics:
            serving = pki.issuer.issue("metrics-server", keys / "metrics-server", server_names=SERVER_NAMES)
            self.apply(*metrics_server(serving, pki.authority.certificate))
        control_plane.wait("all nodes are Ready", lambda: all(map(self.is_ready, self.nodes)), deadline)
        path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
        control_plane.wait("DNS answers", lambda: self.get(path).get("status", {}).get("readyReplicas") == 1, deadline)
        if self._metrics:
            # Kinds that nobody serves would hold up whoever asks for all kinds, as who deletes a namespace does.
            control_plane.wait("metrics-server answers", lambda: bool(self.get(f"{METRICS_API}/nodes")), deadline)

    def stop(self) -> None:
        """Ends everything and returns when nothing of it is left. Safe to call at any time, and more than once."""
        if self._control_plane is not None:
            self._control_plane.stop()
        if self._group is not None:
            self._group.close()
        interface = Path("/sys/class/net") / (self._network.interface if self._network else "none")
        deadline = time.monotonic() + self._start_timeout_seconds
        # The kernel takes interfaces down behind the last process of their network.
        while interface.exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def require_running(self) -> None:
        """Raises ControlPlaneFailed, with the last log lines, when a program has ended."""
        self.control_plane.require_running()

    def load(self, archive: Path) -> list[str]:
        """Gives every node the images of a docker or OCI archive, and returns their names."""
        if not archive.is_file():
            raise NodeFailed(f"there is no file {archive}")
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            loaded = list(pool.map(lambda node: node.load(archive), self.nodes.values()))
        return sorted(set().union(*loaded))

    def stop_node(self, name: str) -> None:
        """As if its power had failed: nothing tells the API."""
        self.nodes.pop(name).kill()

    @property
    def control_plane(self) -> ControlPlane:
        if self._control_plane is None:
            raise ControlPlaneFailed("the cluster is not started")
        return self._control_plane

    @property
    def network(self) -> Network:
        if self._network is None:
            raise ControlPlaneFailed("the cluster is not started")
        return self._network

    @property
    def binaries(self) -> NodeBinaries:
        if self._binaries is None:
            raise ControlPlaneFailed("the cluster is not started")
        return self._binaries

    def get(self, path: str) -> Any:
        """What the API has at `path`; an empty object where it has nothing."""
        response: Response = self.control_plane.api.request("GET", path)
        return response.json() if response.status == 200 else {}

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply, as cluster admin."""
        manifest = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def is_ready(self, node: str) -> bool:
        conditions = self.get(f"/api/v1/nodes/{node}").get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _join_fabric(self, group: ProgramGroup, deadline: float) -> Network:
        fabric = self._fabric = group.spawn("fabric", ["unshare", "--net", "sleep", "infinity"])
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{fabric.pid}/ns/net").readlink() == ours:
            fabric.require_running()
            time.sleep(POLL_SECONDS)
        while True:
            interfaces = [path.name for path in Path("/sys/class/net").iterdir()]
            routes = [route["dst"] for route in json.loads(run(["ip", "-4", "-json", "route"]) or "[]")]
            network = free_block(interfaces, [route for route in routes if route != "default"])
            if network is None:
                raise NodeFailed("all address blocks from 10.200.0.0/16 to 10.215.0.0/16 are in use on this machine")
            commands = host_commands(network, fabric.pid)
            try:
                ip(None, commands[:1])
            except NodeFailed:
                if time.monotonic() > deadline:
                    raise
                continue  # another cluster took the block in between
            self._network = network
            ip(None, commands[1:])
            ip(fabric.pid, fabric_commands(network))
            run(self._in_fabric("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"))
            return network

    def _in_fabric(self, *command: str) -> list[str]:
        assert self._fabric is not None
        return enter(self._fabric.pid, *command, only=("--net",))

    def _start_runtimes(
        self, group: ProgramGroup, network: Network, binaries: NodeBinaries, images: Sequence[Path], deadline: float
    ) -> None:
        assert self._fabric is not None
        for spec in self._specs:
            node = Node(spec, group=group, network=network, binaries=binaries, count=len(self._specs))
            node.lay_out(self._fabric.pid, deadline)
            node.start_runtime(deadline)
            for image in images:
                node.load(image)
            self.nodes[spec.name] = node

    def _start_enforcer(self, group: ProgramGroup, binaries: NodeBinaries, control_plane: ControlPlane) -> None:
        nodes = [f"{name}={node.pid}" for name, node in self.nodes.items()]
        user = control_plane.pki.issuer.issue(
            "system:network-policies", group.directory / "keys" / "network-policies", group="system:masters"
        )
        authority = str(control_plane.pki.authority.certificate)
        keys = [str(user.certificate), str(user.key)]
        command = [sys.executable, "-I", str(ENFORCER), str(control_plane.port), authority, *keys, *nodes]
        group.spawn("network-policies", command, {"PATH": binaries.search_path})

    @staticmethod
    def _pause_image(directory: Path, binaries: NodeBinaries) -> Path:
        return write_image(directory / "pause.tar", PAUSE_IMAGE, {"/pause": binaries.pause}, entrypoint=["/pause"])

    @staticmethod
    def _dns_image(directory: Path, binaries: NodeBinaries) -> Path:
        files = {"/coredns": binaries.coredns}
        return write_image(directory / "coredns.tar", DNS_IMAGE, files, entrypoint=["/coredns"])


if __name__ == "__main__":
    from hermetic_cluster_cli import main  # only here: the command line imports this module

    sys.exit(main())
