"""A cluster goes as it came: no process, mount, interface, route, rule, tunable, control group or file is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cluster as cluster_module
import pytest
from cluster_plugin import Programs
from hermetic_binaries import Binaries
from hermetic_errors import PrivilegesMissing
from hermetic_network import BLOCKS
from hermetic_privileges import require_privileges
from operator_process import eventually
from pods import IMAGE, a_pod

HERMETIC = Path(cluster_module.__file__).parent
TUNABLES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
)
FOLDERS = ("/run/containerd", "/run/netns", "/run/runc", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd")
FOLDERS += ("/var/log/pods", "/var/log/containers", "/etc/cni", "/opt/cni", "/usr/libexec/kubernetes")


def machine(nft: Path) -> dict[str, Any]:
    """What a cluster could change of this machine for everybody."""
    return {
        "tunables": {name: text(Path("/proc/sys") / name) for name in TUNABLES},
        "mounts": [line for line in text(Path("/proc/self/mountinfo")).splitlines() if "flashplane" in line],
        "rules": [table for table in tables(nft) if "flashplane" in table or "kube" in table or "policies" in table],
        "folders": [folder for folder in FOLDERS if Path(folder).exists()],
        "host name": text(Path("/proc/sys/kernel/hostname")),
    }


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def tables(nft: Path) -> list[str]:
    return subprocess.check_output([nft, "list", "tables"], text=True).splitlines()


def traces(directory: Path, interface: str) -> list[str]:
    """What is there of one cluster, by its directory and its interface."""
    name = directory.name
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}")]
    found += [str(path) for path in (Path("/sys/fs/cgroup") / name, directory) if path.exists()]
    found += [interface] if Path("/sys/class/net", interface).exists() else []
    found += [line for line in text(Path("/proc/net/route")).splitlines() if line.split()[0] == interface]
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                words = (process / "cmdline").read_bytes() + (process / "cgroup").read_bytes()
            except OSError:
                continue  # it has just ended
            found += [f"process {process.name}: {words!r}"] if name.encode() in words else []
    return found


def interfaces() -> set[str]:
    known = {f"flashplane{block}" for block in BLOCKS}
    return known & {path.name for path in Path("/sys/class/net").iterdir()}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(HERMETIC / "cluster.py"), *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)


def kubectl(binaries: Binaries, kubeconfig: Path, *arguments: str, stdin: str = "") -> str:
    command = [str(binaries.kubectl), f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def test_by_command_up_load_status_and_down(node_programs: Programs, pod_image: Path, tmp_path: Path) -> None:
    binaries, state = node_programs[0], tmp_path / "state"
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    before, others = machine(binaries.nft), interfaces()
    assert run(environment, "status").returncode == 3
    assert run(environment, "load", str(pod_image)).returncode == 3
    try:
        up = run(environment, "up", "--nodes", "1")
        assert up.returncode == 0, up.stderr
        assert "ready after" in up.stderr
        assert run(environment, "up", "--nodes", "1").stdout == up.stdout
        assert run(environment, "status").returncode == 0
        loaded = run(environment, "load", str(pod_image))
        assert (loaded.returncode, IMAGE in loaded.stderr) == (0, True), loaded.stderr
        kubeconfig = Path(up.stdout.splitlines()[0].removeprefix("export KUBECONFIG="))
        (interface,) = interfaces() - others
        assert traces(kubeconfig.parent, interface)  # so the next look is not blind

        manifest = json.dumps(a_pod("main"))
        kubectl(binaries.control_plane, kubeconfig, "apply", "-f", "-", stdin=manifest)
        kubectl(binaries.control_plane, kubeconfig, "wait", "pod/main", "--for=condition=Ready", "--timeout=60s")
        missing = run(environment, "load", str(tmp_path / "nothing.tar"))
        assert (missing.returncode, "there is no file" in missing.stderr) == (1, True)
    finally:
        assert run(environment, "down").returncode == 0
    assert traces(kubeconfig.parent, interface) == []
    assert machine(binaries.nft) == before
    assert not list(state.iterdir())
    assert run(environment, "status").returncode == 3


OWNER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from cluster import Cluster
cluster = Cluster(nodes=1)
cluster.start()
print(json.dumps([str(cluster.control_plane.directory), cluster.network.interface]), flush=True)
time.sleep(300)
"""


def test_after_its_starter_was_killed(node_programs: Programs) -> None:
    nft = node_programs[0].nft
    before = machine(nft)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(HERMETIC)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        directory, interface = json.loads(owner.stdout.readline())
        assert traces(Path(directory), interface)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    eventually("nothing is left", lambda: not traces(Path(directory), interface))
    assert machine(nft) == before


def test_who_may_not_have_nodes_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PrivilegesMissing) as refused:
        require_privileges()
    assert "kind with Docker" in str(refused.value)
    if os.geteuid() == 0:
        assert "no ip (package iproute2)" in refused.value.missing
    else:
        assert refused.value.missing == ("this user is not root",)
