"""The command line of the hermetic control plane: build, up, status, down.

What a shell should evaluate goes to standard output, everything for people to standard error.
"""

import argparse
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from hermetic_background import Background, Running
from hermetic_binaries import pinned_version, provide
from hermetic_build import report_to_stderr
from hermetic_errors import HermeticError

NOT_RUNNING = 3  # as `systemctl status` answers
NOT_READY = 1

DESCRIPTION = """\
A real Kubernetes API on this machine, without containers: etcd, kube-apiserver and kube-controller-manager as plain
processes, bound to 127.0.0.1. It has no nodes: objects are stored, validated, controlled and garbage-collected, and
pods stay Pending.
"""
EPILOG = """\
environment:
  KUBEBUILDER_ASSETS  a folder with etcd and kube-apiserver (and kube-controller-manager, kubectl) to use instead
  XDG_CACHE_HOME      where the built programs are kept (default ~/.cache)
  XDG_STATE_HOME      where `up` remembers what it started (default ~/.local/state)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(_parser().parse_args(arguments))


def run_command(options: argparse.Namespace) -> int:
    """The exit code of the command that was parsed."""
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except HermeticError as error:
        report_to_stderr(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        report_to_stderr("interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="control_plane.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers = {}
    for name, command, help_text in (
        ("build", build, f"build the programs (Kubernetes {pinned_version()}) once; takes minutes the first time"),
        ("up", up, "start a control plane that stays, and print the line that points kubectl at it"),
        ("status", status, f"say whether it runs; exit code 0 ready, {NOT_READY} not ready, {NOT_RUNNING} not running"),
        ("down", down, "stop it and remove everything that it wrote"),
    ):
        parsers[name] = commands.add_parser(name, help=help_text, description=help_text)
        parsers[name].set_defaults(command=command)
    add_crds_option(parsers["up"])
    return parser


def add_crds_option(parser: argparse.ArgumentParser) -> None:
    """--crds, of every `up`."""
    parser.add_argument(
        "--crds",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a manifest, or a folder of them, to apply before the controllers start: the garbage collector then "
        "knows these kinds at once instead of within a minute; may be repeated",
    )


def build(_options: argparse.Namespace) -> int:
    binaries = provide()
    for path in (binaries.etcd, binaries.kube_apiserver, binaries.kube_controller_manager, binaries.kubectl):
        print(path)
    return 0


def up(options: argparse.Namespace) -> int:
    background = Background.of_user()
    running = background.running()
    if running is None:
        provide()  # here, so that a build shows its progress
        report_to_stderr("starting the control plane")
        running = background.up([str(path.resolve()) for path in options.crds])
    show(running)
    return 0


def status(_options: argparse.Namespace) -> int:
    running = Background.of_user().running()
    if running is None:
        report_to_stderr("not running; start it with: python kind/hermetic/control_plane.py up")
        return NOT_RUNNING
    if not answers(running):
        return NOT_READY
    report_to_stderr(f"ready at {running.url}; keys, data and logs are in {running.directory}")
    show(running)
    return 0


def answers(running: Running) -> bool:
    """Whether the API is ready; why not goes to standard error."""
    ready = subprocess.run(
        [running.kubectl, f"--kubeconfig={running.kubeconfig}", "--request-timeout=5s", "get", "--raw", "/readyz"],
        capture_output=True,
        text=True,
        check=False,
    )
    if ready.returncode != 0:
        report_to_stderr(f"not ready: {ready.stderr.strip()}\nlogs are in {running.directory}")
    return ready.returncode == 0


def down(_options: argparse.Namespace) -> int:
    report_to_stderr("stopped" if Background.of_user().down() else "not running")
    return 0


def show(running: Running) -> None:
    """What a shell evaluates."""
    print(f"export KUBECONFIG={shlex.quote(running.kubeconfig)}")
    folder = shlex.quote(str(Path(running.kubectl).parent))
    print(f'command -v kubectl >/dev/null || export PATH="$PATH":{folder}')
    print("# next: kubectl get namespaces")
