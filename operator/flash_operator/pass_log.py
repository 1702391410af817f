"""What the log says of a pass: one line for each that changed something."""

from __future__ import annotations

import logging

from flash_api.conditions import ConditionType
from flash_operator.cluster.protocol import Key
from flash_operator.logs import EXTRA
from flash_operator.reconcile import Outcome
from flash_operator.status import condition

log = logging.getLogger(__name__)


def tell(key: Key, outcome: Outcome, seconds: float) -> None:
    """One line for a pass that changed something; a pass that did not is told only to those who ask for everything."""
    ready = condition(outcome.status, ConditionType.READY) or {}
    changed = [*(f"applied {name}" for name in outcome.applied), *(f"deleted {name}" for name in outcome.deleted)]
    if outcome.status_written:
        changed.append(f"Ready is {ready.get('status')} ({ready.get('reason')})")
    facts = {
        "namespace": key.namespace,
        "name": key.name,
        "applied": outcome.applied,
        "deleted": outcome.deleted,
        "ready": ready.get("status"),
        "reason": ready.get("reason"),
        "seconds": round(seconds, 3),
    }
    level = logging.INFO if changed else logging.DEBUG
    log.log(level, "%s: %s", key, ", ".join(changed) or "nothing to do", extra={EXTRA: facts})
