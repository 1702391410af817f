"""What local mode asks of the data plane itself: a tritonserver on this machine, and no shared memory left behind.

The one place of the control plane that knows the runtime: a cluster pulls images instead.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from flash_runtime.tritonserver import Progress, TritonserverMissing, fetch


class TritonserverMissingError(Exception):
    """There is none, and it could not be fetched; the message says why and what to do."""


def provide(progress: Callable[[str, int, int], None]) -> None:
    """Fetch tritonserver unless it is there; `progress(phase, done_bytes, total_bytes)` is told how far it is.

    Raises TritonserverMissingError.
    """

    def tell(step: Progress) -> None:
        progress(step.phase, step.done, step.total)

    try:
        fetch(tell)
    except TritonserverMissing as missing:
        raise TritonserverMissingError(str(missing)) from missing


def sweep_shared_memory() -> None:
    """Remove the shared memory of engines that were killed."""
    command = "from flash_runtime.backend.rundir import sweep; sweep()"
    subprocess.run([sys.executable, "-c", command], stdin=subprocess.DEVNULL, check=False)
