"""What `flash status` and `flash explain` say of a revision on trial."""

from datetime import UTC, datetime
from typing import Any

import pytest
from builders import a_manifest
from rich.console import Console

from flash_operator.cockpit import view
from flash_operator.cockpit.explain import explain
from flash_operator.cockpit.facts import Served

COUNTS = {"desired": 4, "replicas": 4, "ready": 4, "updated": 1, "starting": 0}
EVENT = {"revision": "5bb2f7c1d0", "startTime": "2026-01-01T12:00:00Z", "result": "InProgress"}
TRIED = {"revision": "5bb2f7c1d0", "previousRevision": "2a15195f30", "step": "Observing", "canaryPercent": 10}
ENDED = {"endTime": "2026-01-01T12:05:00Z", "result": "RolledBack", "reason": "CanaryErrors", "message": "It failed 5."}
PAUSED = {**TRIED, "paused": True, "history": [EVENT]}
FAILED = {**TRIED, "step": "RolledBack", "canaryPercent": None, "history": [{**EVENT, **ENDED}]}


def served(rollout: dict[str, Any]) -> Served:
    status = {"observedGeneration": 1, "engine": COUNTS, "gateway": COUNTS, "rollout": rollout, "conditions": []}
    return Served(a_manifest(status=status), ())


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({**TRIED, "history": [EVENT]}, "revision 5bb2f7c1d0 beside 2a15195f30: Observing, 10 % of the requests"),
        (PAUSED, "revision 5bb2f7c1d0 beside 2a15195f30: Paused, 10 % of the requests"),
        (FAILED, "revision 5bb2f7c1d0 beside 2a15195f30: RolledBack. CanaryErrors: It failed 5."),
    ],
)
def test_status_shows_the_trial(rollout: dict[str, Any], said: str) -> None:
    console = Console(width=160, record=True, force_terminal=False)
    console.print(view.deployment(served(rollout), datetime(2026, 1, 1, tzinfo=UTC)))
    assert f"ROLLOUT  {said}" in console.export_text()


def test_a_rolling_update_is_no_trial() -> None:
    console = Console(width=160, record=True, force_terminal=False)
    console.print(view.deployment(served({**TRIED, "step": "Replacing"}), datetime(2026, 1, 1, tzinfo=UTC)))
    assert "1 of 4 engine pods are of the newest revision" in console.export_text()


def test_explain_tells_what_became_of_revisions() -> None:
    texts = [each.text for each in explain(served(FAILED)) if each.topic == "Rollout"]
    assert "Revision 5bb2f7c1d0, replacing 2a15195f30: RolledBack." in texts
    told = "2026-01-01T12:00:00Z to 2026-01-01T12:05:00Z: revision 5bb2f7c1d0 RolledBack (CanaryErrors) It failed 5."
    assert told in texts
    texts = [each.text for each in explain(served({**TRIED, "history": [EVENT]})) if each.topic == "Rollout"]
    assert "10 % of the conversations are for it while it is on trial." in texts
