"""Valid manifests that this release cannot serve, told like any other finding. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from flash_api.conditions import EXPLANATIONS, Refusal
from flash_api.manifest import Manifests
from flash_api.problems import Problem
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.checks import FACTS

MODEL_REMEDY = "Write its source into spec.model.source of each FlashDeployment."


def unserved(parsed: Manifests, *, file: str = "") -> tuple[Problem, ...]:
    """One problem for each fact about each object that does not hold."""
    return tuple(_unserved(parsed, file))


def unserved_model(model: FlashModel, file: str = "") -> Problem:
    """That nobody downloads a FlashModel yet."""
    rule = f"{model.metadata.name}: kind FlashModel is not served by this release."
    return Problem(field="", value="", rule=rule, remedy=MODEL_REMEDY, file=file)


def _unserved(parsed: Manifests, file: str) -> Iterator[Problem]:
    for deployment in parsed.deployments:
        for fact in FACTS:
            if (found := fact(deployment.spec)) is not None:
                rule, remedy = _split(found)
                yield Problem(field="", value="", rule=f"{deployment.metadata.name}: {rule}", remedy=remedy, file=file)
    for model in parsed.models:
        yield unserved_model(model, file)


def _split(found: Refusal) -> tuple[str, str]:
    remedy = found.remedy or EXPLANATIONS[found.reason].remedy
    return found.message.removesuffix(remedy).strip(), remedy
