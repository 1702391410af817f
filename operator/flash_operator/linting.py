"""Valid manifests that this release cannot serve, told like any other finding. Pure."""

from __future__ import annotations

from flash_api.conditions import EXPLANATIONS
from flash_api.manifest import Manifests
from flash_api.problems import Problem
from flash_operator.checks import FACTS


def unserved(parsed: Manifests, *, file: str = "") -> tuple[Problem, ...]:
    """One problem for each fact about each FlashDeployment that does not hold."""
    return tuple(
        Problem(
            field="",
            value="",
            rule=f"{deployment.metadata.name}: {found.message.removesuffix(EXPLANATIONS[found.reason].remedy).strip()}",
            remedy=EXPLANATIONS[found.reason].remedy,
            file=file,
        )
        for deployment in parsed.deployments
        for fact in FACTS
        if (found := fact(deployment.spec)) is not None
    )
