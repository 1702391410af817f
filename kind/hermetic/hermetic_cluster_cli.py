"""The command line of the hermetic cluster: build, up, load, status, down. And its supervisor, a hidden command.

What a shell should evaluate goes to standard output, everything for people to standard error.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster import REGIONS, START_TIMEOUT_SECONDS, Cluster
from hermetic_background import Background, Running, described, state_folder, supervisor_main
from hermetic_binaries import pinned_version
from hermetic_build import report_to_stderr
from hermetic_cli import NOT_READY, NOT_RUNNING, add_crds_option, answers, run_command, show
from hermetic_errors import NodeFailed
from hermetic_network import MAX_NODES
from hermetic_node import load as load_into
from hermetic_node_binaries import provide_metrics_server, provide_nodes
from hermetic_privileges import require_privileges

PROGRAM = Path(__file__).resolve().parent / "cluster.py"
DEFAULT_NODES = 3

DESCRIPTION = """\
A real Kubernetes cluster on this machine, without Docker and without an image registry. Nodes are processes in
namespaces of their own; their pods run, and reach nothing but the cluster. `down` leaves nothing behind.
"""
EPILOG = """\
environment:
  XDG_CACHE_HOME      where the built programs are kept (default ~/.cache)
  XDG_STATE_HOME      where `up` remembers what it started (default ~/.local/state)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{build,up,load,status,down}")
    parsers = {}
    for name, command, help_text in (
        ("build", build, f"fetch and build the programs (Kubernetes {pinned_version()}) once; takes minutes"),
        ("up", up, "start a cluster that stays, and print the line that points kubectl at it"),
        ("load", load, "give every node the images of docker or OCI archives"),
        ("status", status, f"say whether it runs; exit code 0 ready, {NOT_READY} not ready, {NOT_RUNNING} not running"),
        ("down", down, "stop it and remove everything that it made"),
    ):
        parsers[name] = commands.add_parser(name, help=help_text, description=help_text)
        parsers[name].set_defaults(command=command)
    supervisor = commands.add_parser("supervise")
    supervisor.add_argument("folder")
    supervisor.set_defaults(command=supervise)
    for with_nodes in (parsers["up"], supervisor):
        with_nodes.add_argument(
            "--nodes",
            type=int,
            default=DEFAULT_NODES,
            choices=range(1, MAX_NODES + 1),
            metavar="N",
            help=f"how many, up to {MAX_NODES} (default {DEFAULT_NODES}); in turn in the regions {', '.join(REGIONS)}",
        )
        with_nodes.add_argument("--metrics", action="store_true", help="with metrics-server, for kubectl top")
        add_crds_option(with_nodes)
    parsers["load"].add_argument("archive", type=Path, nargs="+", help="a .tar as docker, podman and buildah save it")
    return parser


def _background() -> Background:
    return Background(
        state_folder("cluster"),
        [str(PROGRAM), "supervise"],
        start_timeout_seconds=START_TIMEOUT_SECONDS,
    )


def build(_options: argparse.Namespace) -> int:
    binaries = provide_nodes()
    for path in (binaries.kubelet, binaries.runtime, binaries.coredns, binaries.runc, binaries.nft):
        print(path)
    return 0


def up(options: argparse.Namespace) -> int:
    background = _background()
    running = background.running()
    if running is None:
        require_privileges()  # here, before minutes of building
        provide_nodes()  # here, so that a build shows its progress
        metrics = ["--metrics"] if options.metrics else []
        if options.metrics:
            provide_metrics_server()
        report_to_stderr(f"starting a cluster with {_nodes(options.nodes)}")
        started = time.monotonic()
        crds = [word for path in options.crds for word in ("--crds", str(path.resolve()))]
        running = background.up(["--nodes", str(options.nodes), *metrics, *crds])
        report_to_stderr(f"ready after {time.monotonic() - started:.0f} s: {', '.join(running.nodes)}")
    elif len(running.nodes) != options.nodes:
        report_to_stderr(f"a cluster with {_nodes(len(running.nodes))} is running, and stays; `down` ends it")
    show(running)
    return 0


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def supervise(options: argparse.Namespace) -> int:
    supervisor_main(
        options.folder, lambda: _Supervised(nodes=options.nodes, crds=options.crds, metrics=options.metrics)
    )


class _Supervised(Cluster):
    def running(self) -> Running:
        return described(self.control_plane, {name: node.pid for name, node in self.nodes.items()})


def load(options: argparse.Namespace) -> int:
    running = _background().running()
    if running is None:
        return _not_running()
    runtime = provide_nodes().runtime
    for archive in options.archive:
        if not archive.is_file():
            raise NodeFailed(f"there is no file {archive}")
        with ThreadPoolExecutor(len(running.nodes)) as pool:
            loaded = pool.map(lambda pid, archive=archive: load_into(runtime, pid, archive), running.nodes.values())
            names = sorted(set().union(*loaded))
        report_to_stderr(f"every node has {', '.join(names)}")
    return 0


def status(_options: argparse.Namespace) -> int:
    running = _background().running()
    if running is None:
        return _not_running()
    if not answers(running):
        return NOT_READY
    report_to_stderr(
        f"ready at {running.url}, nodes {', '.join(running.nodes)}; keys, data and logs are in {running.directory}"
    )
    show(running)
    return 0


def down(_options: argparse.Namespace) -> int:
    report_to_stderr("stopped" if _background().down() else "not running")
    return 0


def _not_running() -> int:
    report_to_stderr("not running; start it with: python kind/hermetic/cluster.py up")
    return NOT_RUNNING
