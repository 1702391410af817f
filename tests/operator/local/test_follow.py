"""When `flash up` is done, and when it gives up."""

from __future__ import annotations

from typing import Any

import pytest

from flash_api.conditions import EXPLANATIONS, Reason
from flash_operator.local import view
from flash_operator.local.follow import AtZero, Failed, Up, Verdict, Waiting, steps, verdict

SETTLED = {"Ready": ("True", "Serving"), "Reconciling": ("False", "Settled"), "Stalled": ("False", "Progressing")}
STARTING = {"Ready": ("False", "EnginesStarting"), "Reconciling": ("True", "InProgress")}
FAILING = {**STARTING, "EnginesReady": ("False", "EnginesFailing")}


def a_process(component: str = "engine", *, restarts: int = 0, ready: bool = False, **extra: Any) -> dict[str, Any]:
    return {"component": component, "restarts": restarts, "ready": ready, "log": "/l", "progress": None, **extra}


def judged(conditions: dict[str, tuple[str, str]], *processes: dict[str, Any], generation: int = 1) -> Verdict:
    listed = [
        {"type": kind, "status": status, "reason": reason, "message": f"about {kind}"}
        for kind, (status, reason) in {**SETTLED, **conditions}.items()
    ]
    status = {"observedGeneration": 1, "conditions": listed, "endpoint": "http://127.0.0.1:8080/v1"}
    return verdict({"manifest": {"status": status}, "processes": list(processes)}, generation=generation)


def test_a_settled_deployment_that_serves_is_up() -> None:
    assert judged(SETTLED) == Up("http://127.0.0.1:8080/v1")


def test_serving_with_old_pods_is_not_yet_up() -> None:
    assert judged({"Reconciling": ("True", "InProgress")}) == Waiting("about Reconciling")


def test_a_status_of_a_former_spec_says_nothing_about_this_one() -> None:
    assert isinstance(judged(SETTLED, generation=2), Waiting)


def test_a_deployment_of_no_engines_is_not_waited_for() -> None:
    assert judged({"Ready": ("False", "ScaledToZero")}) == AtZero("about Ready")


def test_the_way_down_to_no_engines_is_waited_for() -> None:
    assert isinstance(judged({"Ready": ("False", "ScaledToZero"), "Reconciling": ("True", "InProgress")}), Waiting)


def test_no_status_yet_is_waiting() -> None:
    assert isinstance(verdict({"manifest": {}, "processes": []}, generation=1), Waiting)


def test_a_stalled_deployment_has_failed_with_the_remedy_of_its_reason() -> None:
    failed = judged({**STARTING, "Stalled": ("True", "FieldNotServed")})
    remedy = EXPLANATIONS[Reason.FIELD_NOT_SERVED].remedy
    assert failed == Failed("Stalled", "FieldNotServed", "about Stalled", remedy, None)


@pytest.mark.parametrize(("restarts", "given_up"), [(0, False), (1, False), (2, True)])
def test_a_container_may_fail_twice_before_it_is_given_up(restarts: int, given_up: bool) -> None:
    assert isinstance(judged(FAILING, a_process(restarts=restarts)), Failed) is given_up


def test_a_pod_that_cannot_even_be_made_is_given_up_at_once() -> None:
    assert isinstance(judged(FAILING, a_process("gateway")), Failed)


def test_a_reason_of_a_newer_release_is_shown_as_it_is() -> None:
    failed = judged({**STARTING, "Stalled": ("True", "MoonInWrongPhase")})
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.remedy) == ("MoonInWrongPhase", "")


def test_only_unfinished_steps_are_shown() -> None:
    pack = {"phase": "pack", "done": 3, "total": 9, "unit": "tensors"}
    ready = {"phase": "ready", "done": 1, "total": 1, "unit": "tensors"}
    found = steps([a_process(progress=pack), a_process("gateway", progress=ready), a_process("gateway")])
    assert found == [("engine: pack", 3, 9, "tensors")]


def test_a_finished_pull_credits_its_model() -> None:
    model = {"name": "Tiny", "license": "Apache-2.0", "attribution": "Tiny by its makers"}
    ready = {"phase": "ready", "done": 1, "total": 1, "unit": "tensors", "model": model}
    whose = "Tiny · Apache-2.0 · Tiny by its makers"
    assert view.credits([a_process(), a_process(progress=ready)]) == {"model": whose}
    both = [a_process("draft", progress={**ready, "model": {"name": "Tinier"}}), a_process(progress=ready)]
    assert view.credits(both) == {"model": whose, "draft": "Tinier"}
    assert view.credits([a_process()]) == {}
