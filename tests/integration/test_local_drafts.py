"""Draft pods on this machine: `examples/draft.yaml` with the real operator loop, tritonserver, engine, draft and
gateway. A draft of another tokenizer is refused; one that is killed comes back, and no request notices."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_plugin import Stack, local_stack
from tiny_gguf import write_gguf

pytestmark = pytest.mark.timeout(300)

EXAMPLE = Path(__file__).parents[2] / "examples" / "draft.yaml"


def ask(stack: Stack, *, max_tokens: int = 48) -> str:
    body = {
        "model": stack.model,
        "messages": [{"role": "user", "content": "Name rivers of Europe."}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{stack.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def write(stack: Stack, **changes: Any) -> None:
    """The example, at a free port; None removes a field of the spec."""
    manifest = yaml.safe_load(EXAMPLE.read_text())
    spec = {**manifest["spec"], "endpoint": {"port": stack.port}, **changes}
    manifest["spec"] = {key: value for key, value in spec.items() if value is not None}
    stack.manifest.write_text(yaml.safe_dump(manifest))


def draft_status(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = stack.status()["manifest"]["status"].get("draft", {})
    return found


def drafts(stack: Stack) -> list[dict[str, Any]]:
    return [row for row in stack.status()["processes"] if row["component"] == "draft" and not row["init"]]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with local_stack("drafted") as started:
        write(started)
        started.up()
        yield started


def test_a_draft_is_a_process_of_its_own_and_said_to_be_ready(stack: Stack) -> None:
    assert stack.conditions()["DraftReady"]["status"] == "True"
    (draft,) = drafts(stack)
    assert draft["pid"] != stack.process("engine")["pid"]
    assert (draft_status(stack)["desired"], draft_status(stack)["ready"]) == (1, 1)


def test_the_status_tells_what_proposals_are_worth(stack: Stack) -> None:
    def told() -> bool:
        ask(stack)
        return draft_status(stack).keys() >= {"active", "tokensPerStep"}

    stack.until(told, seconds=120)
    assert "DRAFT  proposals are" in stack.flash("status", stack.model).stdout


def test_a_draft_that_is_killed_comes_back_and_no_answer_changes(stack: Stack) -> None:
    before, (draft,) = ask(stack), drafts(stack)
    os.kill(draft["pid"], signal.SIGKILL)
    assert ask(stack) == before
    stack.until(lambda: [row["ready"] and row["pid"] != draft["pid"] for row in drafts(stack)] == [True])
    stack.until(lambda: stack.conditions()["DraftReady"]["status"] == "True")
    assert stack.conditions()["Ready"]["status"] == "True"
    assert ask(stack) == before


def test_a_draft_of_another_tokenizer_is_refused_with_both_hashes_and_what_runs_goes_on(
    stack: Stack, tmp_path: Path
) -> None:
    before = ask(stack)
    write(stack, draft={"model": {"source": f"file://{write_gguf(tmp_path / 'tiny.gguf', 'llama')}"}})
    told = stack.up(check=False)
    assert told.returncode == 1
    assert "DraftSharesTokenizer" in told.stdout + told.stderr
    accepted = stack.conditions()["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "DraftSharesTokenizer")
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", accepted["message"]))) == 2
    assert ask(stack) == before
    write(stack)
    stack.up()
    assert stack.conditions()["Accepted"]["status"] == "True"


def test_drafts_follow_the_manifest(stack: Stack) -> None:
    before, engine = ask(stack), stack.process("engine")["pid"]
    write(stack, draft={**yaml.safe_load(EXAMPLE.read_text())["spec"]["draft"], "replicas": 2})
    stack.up()
    stack.until(lambda: len(drafts(stack)) == 2)
    assert stack.process("engine")["pid"] == engine, "more drafts restart no engine"
    write(stack, draft=None)
    stack.up()
    stack.until(lambda: drafts(stack) == [])
    assert "DraftReady" not in stack.conditions()
    assert draft_status(stack) == {}
    assert ask(stack) == before
