"""Valid manifests that this release cannot serve, told like any other finding. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from flash_api.conditions import EXPLANATIONS, Refusal
from flash_api.manifest import Manifests
from flash_api.problems import Problem
from flash_operator.checks import FACTS, model_refusal


def unserved(parsed: Manifests, *, file: str = "") -> tuple[Problem, ...]:
    """One problem for each fact about each object that does not hold."""
    return tuple(_unserved(parsed, file))


def _unserved(parsed: Manifests, file: str) -> Iterator[Problem]:
    for deployment in parsed.deployments:
        for fact in FACTS:
            if (found := fact(deployment.spec)) is not None:
                rule, remedy = _split(found)
                yield Problem(field="", value="", rule=f"{deployment.metadata.name}: {rule}", remedy=remedy, file=file)
    for model in parsed.models:
        if (found := model_refusal(model.spec)) is not None:
            rule, remedy = _split(found)
            yield Problem(field="", value="", rule=f"{model.metadata.name}: {rule}", remedy=remedy, file=file)


def _split(found: Refusal) -> tuple[str, str]:
    remedy = found.remedy or EXPLANATIONS[found.reason].remedy
    return found.message.removesuffix(remedy).strip(), remedy
