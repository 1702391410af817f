"""Our operator as a process: `operator_main.py SETTINGS.json`. Its passes over steady objects are `factor` times as
frequent as usual, and so are its looks at them, up to as many as leave room for the passes.

The gateway of a deployment answers here without being asked: where no pod runs, no probe could find it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Final

from flash_operator.__main__ import run
from flash_operator.observation import ProbeResult
from flash_operator.queue import QueueSettings
from flash_operator.reconcile import ReconcileSettings
from flash_operator.settings import OperatorSettings

LOOKS_MAX_PER_SECOND: Final = 5000.0


async def answers(url: str) -> ProbeResult:
    """A probe of an endpoint that serves."""
    return ProbeResult(ok=True, message="")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("kopf", "kubernetes", "aiohttp", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    given = json.loads(Path(sys.argv[1]).read_text())
    usual = QueueSettings()
    settings = OperatorSettings(
        identity=given["identity"],
        kubeconfig=given["kubeconfig"],
        lease_namespace=given["lease_namespace"],
        metrics_host="127.0.0.1",
        metrics_port=given["port"],
        queue=dataclasses.replace(
            usual,
            looks_per_second=min(usual.looks_per_second * given["factor"], LOOKS_MAX_PER_SECOND),
            passes_per_second=usual.passes_per_second * given["factor"],
            resync_seconds=usual.resync_seconds / given["factor"],
        ),
        reconcile=ReconcileSettings(ready_seconds=ReconcileSettings().ready_seconds / given["factor"]),
    )
    sys.exit(asyncio.run(run(settings, probe=answers)))
