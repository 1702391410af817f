"""How a rolling update goes, read off the engine Deployment. Pure; a trial of revisions has a record of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flash_api import names
from flash_api.v1alpha1.status_details import RolloutStatus
from flash_operator.plan.rollout_record import recorded, rolled
from flash_operator.roles import role

Manifest = Mapping[str, Any]


def rolling_update(
    planned: Sequence[Manifest], live: Sequence[Manifest], previous: Manifest, *, name: str, paused: bool, now: datetime
) -> RolloutStatus | None:
    """What `status.rollout` must say, where it said `previous["rollout"]`; the same as before where nothing is planned.

    `name` is that of the FlashDeployment, `live` what belongs to it.
    """
    former = recorded(previous)
    engine = names.engine_name(name)
    target = _revision(planned, engine)
    if not target:
        return former
    engines = role(live, engine)
    arrived = engines.rolled_out and _revision(live, engine) == target
    return rolled(former, target, settled=arrived, stuck=engines.stuck, paused=paused, now=now)


def _revision(manifests: Sequence[Manifest], engine: str) -> str:
    found = [each["metadata"] for each in manifests if each["kind"] == "Deployment"]
    labels = next((meta.get("labels") or {} for meta in found if meta["name"] == engine), {})
    return str(labels.get(names.LABEL_REVISION) or "")
