"""One node: containerd, kubelet and kube-proxy in network, mount, process, IPC and host name namespaces of its own.

Knows how a node is laid out, joined and left. Does not know which pods it gets.
"""

import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermetic_api import certificate_user
from hermetic_cgroups import make_group
from hermetic_errors import NodeFailed
from hermetic_network import Network, joining_commands, node_commands
from hermetic_node_binaries import NodeBinaries
from hermetic_node_files import (
    CONTAINERD_SOCKET,
    TUNABLES,
    NodeSpec,
    cni_config,
    containerd_config,
    kube_proxy_config,
    kubelet_config,
    layout_script,
)
from hermetic_pki import Authority, Pair
from hermetic_processes import Program, ProgramGroup

POLL_SECONDS = 0.02
OCI_NAME = "io.containerd.image.name"
NAMESPACES = ("--mount", "--net", "--uts", "--ipc", "--pid")


def enter(pid: int, *command: str, only: tuple[str, ...] = NAMESPACES) -> list[str]:
    """The command line that runs `command` in the namespaces of process `pid`."""
    return ["nsenter", f"--target={pid}", *only, "--", *command]


def run(command: list[str], *, stdin: str | None = None, stdin_file: Path | None = None) -> str:
    """Standard output of a command that has to succeed. Raises NodeFailed with what it said."""
    try:
        if stdin_file is not None:
            with stdin_file.open("rb") as file:
                done = subprocess.run(command, stdin=file, capture_output=True, check=False)
        else:
            done = subprocess.run(command, input=(stdin or "").encode(), capture_output=True, check=False)
    except OSError as error:
        raise NodeFailed(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise NodeFailed(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def ip(pid: int | None, commands: tuple[str, ...]) -> None:
    """Runs lines of `ip -batch`, in the network of process `pid` or in this process's own."""
    batch = ["ip", "-batch", "-"]
    run(batch if pid is None else enter(pid, *batch, only=("--net",)), stdin="\n".join(commands) + "\n")


@dataclass(frozen=True)
class Access:
    """How a node reaches the API server and proves who it is."""

    issuer: Authority
    authority: Path
    write_kubeconfig: Callable[[str, Mapping[str, str]], Path]
    """Writes one under this name, for this user, with the address that a node sees."""


class Node:
    """Started once; gone with the group that it was started in, or by `kill()`."""

    def __init__(
        self, spec: NodeSpec, *, group: ProgramGroup, network: Network, binaries: NodeBinaries, count: int
    ) -> None:
        self.spec = spec
        self.address = network.node(spec.number)
        self._group, self._network, self._binaries, self._count = group, network, binaries, count
        self._directory = group.directory / "nodes" / spec.name
        self._programs: list[Program] = []
        self._first: Program | None = None
        self._kubelet: Program | None = None
        self._kubelet_command: list[str] = []
        self._pid = 0

    @property
    def pid(self) -> int:
        """The first process inside, as the host numbers it."""
        return self._pid

    def lay_out(self, fabric: int, deadline: float) -> None:
        """Makes the namespaces and joins them to the fabric, which is the network of process `fabric`."""
        for name in ("lib", "log", "tunables", "cni", "volume-plugins", "keys"):
            (self._directory / name).mkdir(parents=True)
        for name, value in TUNABLES.items():
            (self._directory / "tunables" / name.replace("/", ".")).write_text(value)
        (self._directory / "resolv.conf").touch()
        make_group(self._cgroup)
        script = layout_script(self._directory, self.spec.name)
        flags = ("--fork", "--kill-child", "--mount-proc", "--propagation=private")
        self._first = self._spawn("node", ["unshare", *NAMESPACES, *flags, "sh", "-c", script])
        while not (self._directory / "laid-out").exists():
            self._first.require_running()
            if time.monotonic() > deadline:
                raise NodeFailed(f"node {self.spec.name} is not laid out in time: {self._first.last_lines()}")
            time.sleep(POLL_SECONDS)
        (self._pid,) = _children(self._first.pid)
        ip(fabric, joining_commands(self._network, self.spec.number, self._pid))
        ip(self._pid, node_commands(self._network, self.spec.number, self._count))

    def start_runtime(self, deadline: float) -> None:
        """Starts containerd and returns when it answers."""
        (self._directory / "cni" / "10-cluster.conflist").write_text(
            cni_config(self._network.pods_of(self.spec.number))
        )
        config = self._directory / "containerd.toml"
        config.write_text(containerd_config(runtime=self._binaries.runtime, cni=self._directory / "cni"))
        containerd = self._spawn(
            "containerd", self.enter(str(self._binaries.runtime / "containerd"), f"--config={config}")
        )
        while True:
            try:
                self.ctr("version")
                return
            except NodeFailed as error:
                containerd.require_running()
                if time.monotonic() > deadline:
                    raise NodeFailed(f"containerd of {self.spec.name}: {error}\n{containerd.last_lines()}") from error
                time.sleep(POLL_SECONDS)

    def start_kubernetes(self, access: Access) -> None:
        """Starts kubelet and kube-proxy, and does not wait."""
        keys, directory, spec = self._directory / "keys", self._directory, self.spec
        serving = access.issuer.issue(
            f"system:node:{spec.name}",
            keys / "serving",
            group="system:nodes",
            server_names=(spec.name, self.address),
        )
        kubelet = access.issuer.issue(f"system:node:{spec.name}", keys / "kubelet", group="system:nodes")
        kubelet_file = self._write(
            "kubelet.json",
            kubelet_config(
                self._network,
                authority=access.authority,
                serving=serving,
                directory=directory,
                cgroup=self._cgroup,
            ),
        )
        self._kubelet_command = self.enter(
            str(self._binaries.kubelet),
            f"--config={kubelet_file}",
            f"--kubeconfig={access.write_kubeconfig(f'{spec.name}.kubelet', certificate_user(kubelet))}",
            f"--hostname-override={spec.name}",
            f"--node-ip={self.address}",
            f"--node-labels={spec.labels}",
            f"--cert-dir={keys}",
        )
        self._kubelet = self._spawn("kubelet", self._kubelet_command)
        proxy: Pair = access.issuer.issue("system:kube-proxy", keys / "kube-proxy")
        kubeconfig = access.write_kubeconfig(f"{spec.name}.kube-proxy", certificate_user(proxy))
        config = kube_proxy_config(self._network, node=spec.name, address=self.address, kubeconfig=kubeconfig)
        self._spawn(
            "kube-proxy",
            self.enter(str(self._binaries.kube_proxy), f"--config={self._write('kube-proxy.json', config)}"),
        )

    def restart_kubelet(self) -> None:
        """It registers its node again where somebody has deleted it. Pods run on meanwhile."""
        assert self._kubelet is not None, "the node is not started"
        self._programs.remove(self._kubelet)
        self._group.programs.remove(self._kubelet)
        for inside in _children(self._kubelet.pid):
            os.kill(inside, signal.SIGKILL)
        self._kubelet.reap()
        self._kubelet = self._spawn("kubelet", self._kubelet_command)

    def enter(self, *command: str) -> list[str]:
        """The command line that runs `command` in this node."""
        return enter(self._pid, *command)

    def ctr(self, *arguments: str, stdin_file: Path | None = None) -> str:
        """Output of containerd's own client, in the namespace of Kubernetes. Raises NodeFailed."""
        return ctr(self._binaries.runtime, self._pid, *arguments, stdin_file=stdin_file)

    def load(self, archive: Path) -> set[str]:
        """Imports the images of a docker or OCI archive and returns their names."""
        return load(self._binaries.runtime, self._pid, archive)

    def kill(self) -> None:
        """As if its power had failed. What the API knows of it stays."""
        for program in self._programs:
            if program in self._group.programs:
                self._group.programs.remove(program)
        if self._first is not None:
            self._first.reap()
        for program in self._programs:
            program.reap()

    @property
    def _cgroup(self) -> str:
        return f"{self._group.directory.name}/{self.spec.name}"

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text)
        return path

    def _spawn(self, name: str, command: list[str]) -> Program:
        environment = {"PATH": self._binaries.search_path, "HOME": str(self._directory)}
        program = self._group.spawn(f"{self.spec.name}.{name}", command, environment)
        self._programs.append(program)
        return program


def _children(pid: int) -> list[int]:
    """`nsenter` and `unshare` wait outside for the one process that they started inside."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ctr(runtime: Path, pid: int, *arguments: str, stdin_file: Path | None = None) -> str:
    """Output of containerd's client in the node whose first process is `pid`."""
    command = (str(runtime / "ctr"), f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *arguments)
    return run(enter(pid, *command), stdin_file=stdin_file)


def load(runtime: Path, pid: int, archive: Path) -> set[str]:
    """Imports the images of an archive into the node whose first process is `pid`, and returns their names."""
    ctr(runtime, pid, "images", "import", "-", stdin_file=archive)
    return image_names(archive)


def image_names(archive: Path) -> set[str]:
    """What the images in a docker or OCI archive are called. What containerd says of an import is made for people: it
    shortens long names."""
    with tarfile.open(archive) as tar:
        members = {name.removeprefix("./"): name for name in tar.getnames()}

        def read(name: str) -> Any:
            file = tar.extractfile(members[name]) if name in members else None
            return json.load(file) if file is not None else None

        tags = [tag for image in read("manifest.json") or [] for tag in image.get("RepoTags") or []]
        notes = [entry.get("annotations", {}) for entry in (read("index.json") or {}).get("manifests", [])]
    return {*tags, *(note[OCI_NAME] for note in notes if OCI_NAME in note)}
