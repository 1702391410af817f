"""The operator's log: one object per line for machines, one line of text for people."""

import io
import json
import logging

from flash_operator.logs import JsonFormatter


def logged(message: str, *arguments: object, facts: dict[str, object] | None = None, failing: bool = False) -> str:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("flash_operator.test")
    log.addHandler(handler)
    try:
        if failing:
            raise ValueError("broken\nin two")
        log.info(message, *arguments, extra={"facts": facts or {}})
    except ValueError:
        log.exception(message, *arguments)
    return written.getvalue()


def test_a_record_is_one_object_on_one_line() -> None:
    text = logged("%s: applied\nmuch", "default/chat", facts={"name": "chat", "applied": ("Service/chat",)})
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == (
        "info",
        "flash_operator.test",
        "default/chat: applied\nmuch",
    )
    assert (line["name"], line["applied"]) == ("chat", ["Service/chat"])
    assert line["time"].endswith("+00:00")


def test_facts_never_hide_what_every_record_has() -> None:
    assert json.loads(logged("said", facts={"message": "other", "level": "x"}))["message"] == "said"


def test_a_traceback_stays_on_its_line() -> None:
    text = logged("failed", failing=True)
    assert text.count("\n") == 1
    assert "ValueError: broken" in json.loads(text)["traceback"]
