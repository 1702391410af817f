"""What a terminal shows."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from flash_operator.local import view
from flash_operator.local.waiting import Waiting


def a_row(component: str = "engine", container: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "pod": f"quickstart-{component}-071e3f52-0",
        "component": component,
        "container": container or component,
        "init": False,
        "state": "Running",
        "ready": True,
        "pid": 4711,
        "ports": {"http": 20130, "grpc": 20131, "metrics": 20132},
        "restarts": 0,
        "lastExitCode": None,
        "lastLine": "",
        "probeFailure": "",
        "residentBytes": 254 * 1024**2,
        "progress": None,
        **changes,
    }


def shown(*rows: dict[str, Any], width: int = 80) -> str:
    text = io.StringIO()
    entry = {"manifest": {"metadata": {"name": "quickstart"}, "status": {}}, "processes": list(rows)}
    Console(file=text, width=width).print(view.details(entry))
    return text.getvalue()


def test_a_process_keeps_its_name_in_one_piece_in_a_narrow_terminal() -> None:
    text = shown(a_row(), a_row("gateway", ports={"http": 8080}))
    assert "engine-071e3f52-0 " in text
    assert "gateway-071e3f52-0 " in text
    assert "254 MiB" in text


DRAFT = {"active": True, "acceptancePercent": 71, "tokensPerStep": "2.4", "speedupPercent": 168}


def test_what_proposals_are_worth_is_one_line() -> None:
    worth = view.proposals({"draft": DRAFT})
    assert worth == "proposals are used, 71 % of them hold, 2.4 tokens a step, 1.68x as fast as without, measured"
    idle = view.proposals({"draft": {"active": False, "whyNot": "BelowBreakEven"}})
    assert idle == "proposals are not used (BelowBreakEven)"
    assert view.proposals({}) == view.proposals({"draft": {"desired": 1}}) == ""


def test_a_container_is_named_when_it_is_not_the_one_of_its_component() -> None:
    assert "engine-071e3f52-0 pull" in shown(a_row(container="pull", init=True))


def test_the_last_words_of_a_process_that_recovered_are_not_shown() -> None:
    ended = {"lastExitCode": -9, "lastLine": "Started Metrics Service"}
    assert "Started" not in shown(a_row(**ended), width=200)
    assert "-9: Started Metrics Service" in shown(a_row(ready=False, **ended), width=200)


def test_without_a_terminal_each_new_step_is_one_line_and_nothing_else() -> None:
    text = io.StringIO()
    with Waiting(Console(file=text), "chat") as waiting:
        for message in ("starting", "starting", "loading"):
            waiting.show(message, [])
    assert text.getvalue() == "chat: starting\nchat: loading\n"
