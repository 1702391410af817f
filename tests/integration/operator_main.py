"""The operator as a process with time-outs of seconds instead of minutes: `python operator_main.py SETTINGS.json`."""

import asyncio
import json
import logging
import sys
from pathlib import Path

from flash_operator.__main__ import run
from flash_operator.lease import LeaseTimes
from flash_operator.queue import QueueSettings
from flash_operator.reconcile import ReconcileSettings
from flash_operator.settings import OperatorSettings, WatchSettings

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    given = json.loads(Path(sys.argv[1]).read_text())
    settings = OperatorSettings(
        identity=given["identity"],
        namespaces=(given["namespace"],),
        kubeconfig=given["kubeconfig"],
        lease_times=LeaseTimes(*given["lease_seconds"]),
        metrics_host="127.0.0.1",
        metrics_port=given["port"],
        audit_seconds=1.0,
        blind_max_seconds=3.0,
        watch=WatchSettings(
            server_timeout_seconds=20,
            inactivity_seconds=given["inactivity_seconds"],
            request_timeout_seconds=3.0,
            error_backoffs_seconds=(0.1, 0.2),
            restart_seconds=0.1,
            restart_max_seconds=1.0,
        ),
        queue=QueueSettings(backoff_seconds=0.1, backoff_max_seconds=1.0),
        # No pass finds by itself what an event should have told, within any test: whoever acts was woken.
        reconcile=ReconcileSettings(waiting_seconds=given["pass_seconds"], ready_seconds=given["pass_seconds"]),
    )
    sys.exit(asyncio.run(run(settings)))
