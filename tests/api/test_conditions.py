"""The closed list of reasons is complete: each is explained, belongs to a condition, and can be read in the docs."""

import re

import pytest

from flash_api.conditions import EXPLANATIONS, MEANINGS, REASONS, ConditionType, Reason
from flash_api.reference import pages


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_cause_and_a_remedy(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]+", reason)
    explained = EXPLANATIONS[reason]
    assert explained.cause.endswith(".")
    assert explained.remedy.endswith(".")


def test_every_reason_belongs_to_a_condition() -> None:
    assert {reason for reasons in REASONS.values() for reason in reasons} == set(Reason)
    assert REASONS.keys() == MEANINGS.keys() == set(ConditionType)


def test_the_reference_explains_every_condition_and_reason() -> None:
    page = pages()["conditions.md"]
    for kind in ConditionType:
        assert f"## {kind}\n" in page
    for reason in Reason:
        assert f"| `{reason}` | {EXPLANATIONS[reason].cause} | {EXPLANATIONS[reason].remedy} |" in page


def test_the_reference_lists_every_field_of_every_kind() -> None:
    assert "| `engine.autoscaling.targets.ttftMilliseconds` | integer, 1 to 600,000 |" in pages()["flashdeployment.md"]
    assert (
        '| `cache.accessMode` | `ReadWriteOnce` \\| `ReadWriteMany` | `"ReadWriteOnce"` |' in pages()["flashmodel.md"]
    )
    assert "minReplicas must not exceed maxReplicas; lower minReplicas" in pages()["flashdeployment.md"]
