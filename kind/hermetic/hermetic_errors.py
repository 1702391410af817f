"""What can go wrong with the hermetic control plane and cluster, as one tree.

HermeticError
├── BinariesUnavailable   this machine cannot have the programs; carries the reason and the remedy
├── BuildFailed           the build ran and failed: a broken pin, no module proxy, a full disk
├── PrivilegesMissing     this user or this kernel cannot have nodes; carries what is missing and the remedy
├── ControlPlaneFailed    a program ended or was not ready in time; carries its last log lines
├── NodeFailed            a node could not be laid out, joined or loaded; carries what the command said
└── KubectlFailed         kubectl answered with an error; carries its exit code and standard error
"""

from collections.abc import Sequence


class HermeticError(Exception):
    """Base of everything this folder raises on purpose."""


class BinariesUnavailable(HermeticError):
    """The programs are neither given, nor cached, nor can they be built here."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


class BuildFailed(HermeticError):
    """`go build` ended with an error."""


class ControlPlaneFailed(HermeticError):
    """The control plane could not be started, or one of its programs ended."""


class PrivilegesMissing(HermeticError):
    """Nodes need rights that this process does not have, or abilities that this kernel lacks."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"a cluster with nodes cannot run here: {'; '.join(missing)}. "
            "Run as root on Linux (in a virtual machine or a privileged container), or use kind with Docker"
        )
        self.missing = tuple(missing)


class NodeFailed(HermeticError):
    """A command that makes or feeds a node ended with an error."""


class KubectlFailed(HermeticError):
    """kubectl ended with an error."""

    def __init__(self, arguments: Sequence[str], exit_code: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} ended with exit code {exit_code}: {stderr.strip()}")
        self.exit_code = exit_code
        self.stderr = stderr
