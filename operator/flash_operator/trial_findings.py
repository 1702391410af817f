"""What the trial of a revision means for the conditions of a status. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from flash_api.reasons import Reason
from flash_api.v1alpha1.status_details import REPLACING, RolloutStatus
from flash_operator.roles import Role


@dataclass(frozen=True)
class Findings:
    """As far as `status.rollout` tells."""

    under_way: bool = False
    """Something is going on that ends by itself."""
    stands_still: bool = False
    """Nothing goes on because the spec asks for it."""
    rolled_back: Reason | None = None
    """Why the revision of the spec is not what serves."""
    reason: Reason | None = None
    """What to say of engines that are ready; None = nothing but that."""
    message: str = ""


def trial_findings(rollout: RolloutStatus | None, engines: Role) -> Findings:
    """`engines` are those of the stable revision."""
    if rollout is None or rollout.step == REPLACING:
        return Findings()
    head = rollout.history[0] if rollout.history else None
    former = rollout.previous_revision or "the former one"
    if rollout.paused:
        message = f"Revision {rollout.revision} waits beside {former}; the rollout is paused."
        still = engines.seen_by_controller and engines.ready == engines.existing == engines.desired
        return Findings(under_way=not still, stands_still=still, reason=Reason.ROLLOUT_PAUSED, message=message)
    match rollout.step:
        case "RolledBack" if head is not None:
            why = _reason(head.reason)
            message = f"Revision {rollout.revision} was taken back and {former} serves alone. {head.message}".rstrip()
            return Findings(rolled_back=why, reason=why, message=message)
        case "Starting":
            message = f"Pods of revision {rollout.revision} start beside {former}."
            return Findings(under_way=True, reason=Reason.CANARY_RUNNING, message=message)
        case "Observing":
            share = f"{rollout.canary_percent} % of the requests"
            message = f"Revision {rollout.revision} answers {share} beside {former}, and is watched."
            return Findings(under_way=True, reason=Reason.CANARY_RUNNING, message=message)
        case "Promoting":
            return Findings(under_way=True, message=f"Revision {rollout.revision} takes the place of all others.")
        case _:
            return Findings()


def _reason(word: str) -> Reason:
    return Reason(word) if word in set(Reason) else Reason.CANARY_INCONCLUSIVE
