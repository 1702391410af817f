"""How far the Jobs of a FlashModel are, and why one has failed, from Jobs and pods as they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from flash_api import names
from flash_api.conditions import Reason
from flash_api.v1alpha1.status import LastFailure, PackedVariant
from flash_operator import pod_reports
from flash_operator.difference import identity
from flash_operator.plan.pull_job import HOPELESS_EXIT_CODES

Manifest = Mapping[str, Any]

RETRY_SECONDS: Final = 600.0
"""Between the end of a Job that has given up and the next one. The Job itself has tried several times by then."""


class Stage(Enum):
    """How far one Job is."""

    ABSENT = "absent"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Pull:
    """The Job of one variant."""

    variant: str
    job: str
    stage: Stage
    failure: LastFailure | None = None
    """The last failure of one of its pods."""
    gave_up: str = ""
    """Why the Job failed, in Kubernetes' words."""
    failed_at: str = ""

    @property
    def hopeless(self) -> bool:
        """The next pod would end the same way."""
        code = self.failure.exit_code if self.failure is not None else None
        return self.stage is Stage.FAILED and code in HOPELESS_EXIT_CODES

    def wait_seconds(self, now: datetime) -> float | None:
        """Until a Job that has given up is made anew; None for one that is not."""
        if self.stage is not Stage.FAILED or self.hopeless:
            return None
        try:
            ended = datetime.strptime(self.failed_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            return 0.0
        return max(0.0, (ended + timedelta(seconds=RETRY_SECONDS) - now).total_seconds())


def pulls(planned: Sequence[Manifest], live: Sequence[Manifest], pods: Sequence[Manifest]) -> tuple[Pull, ...]:
    """One for each planned Job, in their order."""
    jobs = {identity(manifest): manifest for manifest in live if not is_stale(manifest, live)}
    return tuple(_pull(job, jobs.get(identity(job)), pods) for job in planned if job["kind"] == "Job")


def is_stale(manifest: Manifest, live: Sequence[Manifest]) -> bool:
    """A Job that is older than the volume: what it packed went with the volume that was there before."""
    if manifest["kind"] != "Job":
        return False
    claims = [m["metadata"].get("creationTimestamp", "") for m in live if m["kind"] == "PersistentVolumeClaim"]
    return any(manifest["metadata"].get("creationTimestamp", "") < created for created in claims)


def next_up(found: Sequence[Pull]) -> str | None:
    """The Job to make now: pulls of one model go one after the other, since they share a download and a disk."""
    if any(pull.stage is Stage.RUNNING for pull in found):
        return None
    return next((pull.job for pull in found if pull.stage is Stage.ABSENT), None)


def packed(found: Sequence[Pull], pods: Sequence[Manifest], previous: Manifest) -> tuple[PackedVariant, ...]:
    """The variants that are ready for use. What a Job has said is kept when its pod is gone: the volume is not."""
    known = {each.get("job"): each for each in previous.get("variants") or ()}
    entries = []
    for pull in found:
        if pull.stage is Stage.DONE:
            said = pod_reports.pulled(pods, pull.job)
            before = known.get(pull.job, {})
            size = said.get("sizeBytes") if said else before.get("sizeBytes")
            digest = said.get("packedDigest") if said else before.get("digest")
            entries.append(
                PackedVariant.model_validate(
                    {
                        "variant": pull.variant,
                        "job": pull.job,
                        "digest": str(digest or "")[:71],
                        "sizeBytes": size if isinstance(size, int) and size >= 0 else None,
                    }
                )
            )
    return tuple(entries)


def source_facts(found: Sequence[Pull], pods: Sequence[Manifest], previous: Manifest) -> tuple[str, str, str]:
    """Name of the weights, their digest and that of their tokenizer, as the first pull that is done has said them; else
    as they were known."""
    for pull in found:
        said = pod_reports.pulled(pods, pull.job) if pull.stage is Stage.DONE else None
        if said and isinstance(said.get("digest"), str):
            return str(said.get("name") or "")[:256], said["digest"][:71], str(said.get("tokenizer") or "")[:64]
    if any(pull.stage is Stage.DONE for pull in found):
        name, digest, tokenizer = (str(previous.get(key) or "") for key in ("name", "digest", "tokenizer"))
        return name, digest, tokenizer
    return "", "", ""


def failure_reason(failure: LastFailure | None, gave_up: str) -> Reason:
    """The one word for why a pull failed, from how `flash-pull` ends: its exit code, and what its last line says."""
    code, line = (failure.exit_code, failure.message) if failure is not None else (None, gave_up)
    match code:
        case 2:
            return Reason.MODEL_NOT_SUPPORTED
        case 3:
            return Reason.DIGEST_MISMATCH if "sha256 is" in line else Reason.WEIGHTS_UNUSABLE
        case 4:
            return Reason.CREDENTIALS_REFUSED if "token" in line else Reason.SOURCE_UNREACHABLE
        case 5:
            return Reason.CACHE_FULL if "full" in line or "no room" in line else Reason.PULL_FAILED
        case _:
            return Reason.PULL_FAILED


def _pull(planned: Manifest, live: Manifest | None, pods: Sequence[Manifest]) -> Pull:
    name = str(planned["metadata"]["name"])
    variant = str(planned["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_VARIANT])
    if live is None or live["metadata"].get("deletionTimestamp"):
        return Pull(variant, name, Stage.ABSENT)
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(pod_reports.JOB_LABEL) == name]
    ended = {c.get("type"): c for c in (live.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    if "Complete" in ended:
        return Pull(variant, name, Stage.DONE)
    failure = pod_reports.last_failure(own)
    if "Failed" in ended:
        end = ended["Failed"]
        said = str(end.get("message") or end.get("reason") or "")
        return Pull(variant, name, Stage.FAILED, failure, said, str(end.get("lastTransitionTime") or ""))
    return Pull(variant, name, Stage.RUNNING, failure)
