"""The control plane that one side is measured on. It may outlive a measurement: `plane.py ours|peer FOLDER` holds one
until it is told to end, and `run.py` with PLANE=FOLDER measures on it, phase by phase, as often as it is started.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
for folder in (HERE.parent, ROOT / "kind/hermetic", ROOT / "tests/integration"):
    sys.path.insert(0, str(folder))

from control_plane import ControlPlane  # noqa: E402
from sides import OURS, Side, peer  # noqa: E402
from stand_in import paused_controller_manager  # noqa: E402

NAMESPACE: Final = "bench"
USER: Final = f"system:serviceaccount:{NAMESPACE}:operator"
_FILE: Final = "plane.json"


@dataclass(frozen=True)
class Plane:
    """What a measurement needs of a control plane."""

    admin: str
    """Kubeconfig of whoever creates objects …"""
    operator: str
    """… and of the operator."""
    audit_log: str
    folder: str
    """For files of the side, and for the figures so far."""


@contextlib.contextmanager
def started(side: Side) -> Iterator[Plane]:
    """A new one, with the CRDs of the side and an account for its operator; it is gone afterwards."""
    with ControlPlane(crds=(side.crds,)) as plane, tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
        yield from _prepared(plane, Path(folder))


def _prepared(plane: ControlPlane, folder: Path) -> Iterator[Plane]:
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("-n", NAMESPACE, "create", "serviceaccount", "operator")
    plane.kubectl(
        *("create", "clusterrolebinding", "bench", "--clusterrole=cluster-admin"),
        f"--serviceaccount={NAMESPACE}:operator",
    )
    account = plane.kubeconfig_for_service_account(NAMESPACE, "operator")
    with paused_controller_manager(plane.pids):
        yield Plane(str(plane.kubeconfig), str(account), str(plane.audit_log), str(folder))


def kept(folder: Path) -> Plane:
    """The one that another process holds."""
    return Plane(**json.loads((folder / _FILE).read_text()))


def main() -> int:
    side, folder = {"ours": lambda: OURS, "peer": peer}[sys.argv[1]](), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), ControlPlane(crds=(side.crds,)) as plane:
        for found in _prepared(plane, folder):
            (folder / _FILE).write_text(json.dumps(asdict(found)))
            print(f"ready: PLANE={folder}", flush=True)
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
