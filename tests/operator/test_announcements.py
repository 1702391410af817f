"""Events are for changes that users care about, and each change is told once."""

from typing import Any

import pytest

from flash_operator.announcements import announcements


def a_status(
    *,
    ready: str = "True Serving",
    accepted: str = "True SpecAccepted",
    reconciling: str = "False Settled",
    engines: str = "True AllEnginesReady",
    gateways: str = "True EndpointAnswers",
    rolling: str = "",
    at: str = "2026-01-01T12:00:00Z",
    failure: dict[str, Any] | None = None,
) -> dict[str, Any]:
    said = {"Ready": ready, "Accepted": accepted, "Reconciling": reconciling}
    said |= {"EnginesReady": engines, "EndpointReady": gateways}
    conditions = [
        {"type": kind, "status": text.split()[0], "reason": text.split()[1], "message": "", "lastTransitionTime": at}
        for kind, text in said.items()
    ]
    history = [{"revision": "r", "startTime": at, "result": rolling}] if rolling else []
    said_last = {"lastFailure": failure} if failure else {}
    return {"observedGeneration": 1, "conditions": conditions, "rollout": {"history": history}, **said_last}


STARTING = a_status(ready="False EnginesStarting", reconciling="True InProgress")
BUSY = a_status(reconciling="True InProgress")
ROLLING = a_status(reconciling="True InProgress", engines="True EnginesUpdating")
SURGELESS = a_status(reconciling="True InProgress", engines="True EnginesStarting", rolling="InProgress")
GATEWAYS_LEFT = a_status(reconciling="True InProgress", gateways="True GatewayUpdating", rolling="Complete")
REFUSED = a_status(ready="False InvalidSpec", accepted="False InvalidSpec")
FAILURE = {"pod": "p", "container": "engine", "exitCode": 137, "reason": "OOMKilled", "message": "", "time": "1"}


def told(previous: dict[str, Any], status: dict[str, Any]) -> list[tuple[str, str]]:
    return [(news.type, news.reason) for news in announcements(previous, status, uid="u")]


@pytest.mark.parametrize(
    ("previous", "status", "news"),
    [
        ({}, STARTING, []),
        (STARTING, STARTING, []),
        (STARTING, a_status(), [("Normal", "Serving")]),
        (a_status(), STARTING, [("Warning", "EnginesStarting")]),
        ({}, REFUSED, [("Warning", "InvalidSpec")]),
        (a_status(), REFUSED, [("Warning", "InvalidSpec")]),
        (REFUSED, REFUSED, []),
        (REFUSED, a_status(), [("Normal", "Serving")]),
        (a_status(), ROLLING, []),
        (ROLLING, a_status(), [("Normal", "RolledOut")]),
        (ROLLING, BUSY, [("Normal", "RolledOut")]),  # drafts still start
        (BUSY, a_status(), []),  # drafts started over
        (SURGELESS, a_status(rolling="Complete"), [("Normal", "RolledOut")]),
        (SURGELESS, a_status(rolling="RolledBack"), []),
        (SURGELESS, GATEWAYS_LEFT, []),
        (GATEWAYS_LEFT, a_status(rolling="Complete"), [("Normal", "RolledOut")]),
        (a_status(), a_status(failure=FAILURE), [("Warning", "ContainerFailed")]),
        (a_status(failure=FAILURE), a_status(), []),
    ],
)
def test_users_hear_of_what_matters_to_them(
    previous: dict[str, Any], status: dict[str, Any], news: list[tuple[str, str]]
) -> None:
    assert told(previous, status) == news


def test_a_crash_loop_is_told_once() -> None:
    again = {**FAILURE, "time": "2", "pod": "q"}
    assert told(a_status(failure=FAILURE), a_status(failure=again)) == []
    assert told(a_status(failure=FAILURE), a_status(failure={**again, "exitCode": 1})) == [
        ("Warning", "ContainerFailed")
    ]


def test_the_same_change_has_the_same_name_however_often_it_is_found() -> None:
    later = a_status(at="2026-01-01T12:00:09Z")
    (first,), (second,) = (announcements(STARTING, s, uid="u") for s in (a_status(), later))
    assert first.identity == second.identity


def test_the_next_change_of_the_same_kind_has_another_name() -> None:
    again = a_status(ready="False EnginesStarting", reconciling="True InProgress", at="2026-01-02T12:00:00Z")
    (first,), (second,) = (announcements(s, a_status(), uid="u") for s in (STARTING, again))
    assert first.identity != second.identity


def test_a_note_quotes_the_last_line_of_the_failure() -> None:
    failure = {**FAILURE, "message": "cannot allocate"}
    (news,) = announcements(a_status(), a_status(failure=failure), uid="u")
    assert news.note == "Container engine of pod p ended with code 137 (OOMKilled): cannot allocate"
