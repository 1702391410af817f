"""Deployments that need no pass to be known: while nothing is heard of them and their endpoint answers as before, a
pass would find what the last one found. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_api.conditions import ConditionType, Reason
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.status_details import Latency
from flash_operator.drafts import worth
from flash_operator.latency import latency
from flash_operator.observation import ProbeResult
from flash_operator.plan.routes import asked_kinds
from flash_operator.status import condition


@dataclass(frozen=True)
class Steady:
    """What an answer is held against. Small: there are thousands of these, and each waits for its next look."""

    url: str
    latency: Latency | None
    """As written in the status."""
    draft: Mapping[str, Any] | None = None
    """Figures of proposals, as written in the status; None = there are none to be written."""

    def holds(self, answer: ProbeResult) -> bool:
        """Nothing has changed."""
        written = self.latency.model_dump(by_alias=True) if self.latency is not None else None
        if self.draft is not None and worth(answer.draft, self.draft) != worth(None, self.draft):
            return False
        return answer.ok and latency(answer.milliseconds, written) == self.latency


def steady(deployment: FlashDeployment | None, status: Mapping[str, Any], probe_url: str) -> Steady | None:
    """None for one that is not settled, or depends on what sends no event: load, nodes, routes."""
    settled = (condition(status, ConditionType.RECONCILING) or {}).get("reason") == Reason.SETTLED
    ready = (condition(status, ConditionType.READY) or {}).get("status") == "True"
    under_way = (status.get("rollout") or {}).get("step")  # a trial is judged by what time brings
    if deployment is None or under_way or not (ready and settled):
        return None
    spec = deployment.spec
    if spec.engine.autoscaling is not None or spec.residency is not None or asked_kinds(deployment):
        return None
    return Steady(probe_url, latency({}, status.get("latency")), status.get("draft"))
