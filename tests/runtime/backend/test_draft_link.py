"""The engine's gRPC stream to a draft: found, lost and found again, and never trusted."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from fakes.draft_process import DraftProcess, Twist
from fakes.paged_model import PagedModel

from flash_runtime.backend.draft_link import DraftLink, resolve
from flash_runtime.draft_wire import PROTOCOL, Hello
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.proposals import Ask, Fallback, ProposerError
from flash_runtime.engine.remote import RemoteDraft
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import GenerateRequest

HELLO = Hello(protocol=PROTOCOL, tokenizer="t", revision="1")
PROMPT = [5, 6, 7, 8]


@contextmanager
def link_to(*addresses: str, silence_seconds: float = 2.0) -> Iterator[DraftLink]:
    link = DraftLink(
        addresses,
        HELLO,
        clock=time.monotonic,
        draw=random.Random(0),
        resolve=lambda endpoint: [endpoint],
        silence_seconds=silence_seconds,
    )
    link.start()
    try:
        yield link
    finally:
        link.close()


@pytest.fixture
def start() -> Iterator[Callable[..., DraftProcess]]:
    """Start a draft, which is stopped at the end."""
    started: list[DraftProcess] = []

    def start(**options) -> DraftProcess:
        started.append(DraftProcess(**options))
        return started[-1]

    yield start
    for draft in started:
        draft.stop()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        pause.wait(0.01)


def proposed(draft: RemoteDraft, token_ids: Sequence[int]) -> tuple[list[int], Fallback | None]:
    try:
        (proposal,) = draft.propose([Ask(0, token_ids, 3)], patience_seconds=5.0)
    except ProposerError as error:
        return [], error.reason
    return list(proposal.token_ids), None


def eventually_proposes(draft: RemoteDraft, token_ids: Sequence[int]) -> None:
    expected = PagedModel().expected(list(token_ids), 3)
    eventually(lambda: proposed(draft, token_ids)[0] == expected)


def test_a_draft_that_ends_is_found_again_when_it_is_back(start: Callable[..., DraftProcess]) -> None:
    first = start()
    with link_to(first.address) as link:
        draft = RemoteDraft(link, clock=time.monotonic)
        eventually_proposes(draft, PROMPT)
        first.stop()
        eventually(lambda: proposed(draft, PROMPT) == ([], Fallback.DISCONNECTED))
        start(port=first.port)
        eventually_proposes(draft, [*PROMPT, 9])
        assert link.epoch == 2


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"tokenizer": "u"}, Fallback.TOKENIZER), ({"revision": "2"}, Fallback.REVISION)],
    ids=["tokenizer", "revision"],
)
def test_a_draft_that_does_not_match_is_refused_and_another_one_taken(
    start: Callable[..., DraftProcess], other: dict[str, str], reason: Fallback, caplog: pytest.LogCaptureFixture
) -> None:
    unlike = start(**other)
    with link_to(unlike.address) as link:
        draft = RemoteDraft(link, clock=time.monotonic)
        eventually(lambda: proposed(draft, PROMPT) == ([], reason))
        eventually(lambda: unlike.num_streams >= 3)
        assert link.epoch == 0
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1, "the same refusal is logged once"
    with link_to(unlike.address, start().address) as link:
        eventually_proposes(RemoteDraft(link, clock=time.monotonic), PROMPT)


def test_a_draft_that_hangs_is_left_for_another_one(start: Callable[..., DraftProcess]) -> None:
    hung, well = start(twist=lambda content: None), start()
    with link_to(hung.address, well.address, silence_seconds=0.05) as link:
        draft = RemoteDraft(link, clock=time.monotonic)

        def propose() -> bool:
            try:
                draft.propose([Ask(0, PROMPT, 3)], patience_seconds=0.02)
            except ProposerError:
                return False
            return True

        eventually(propose)
        eventually_proposes(draft, PROMPT)


def test_a_draft_that_is_ending_sends_its_engines_elsewhere(start: Callable[..., DraftProcess]) -> None:
    ending = threading.Event()
    first = start(is_stopping=ending.is_set)
    with link_to(first.address) as link:
        draft = RemoteDraft(link, clock=time.monotonic)
        eventually_proposes(draft, PROMPT)
        ending.set()
        eventually(lambda: proposed(draft, PROMPT) == ([], Fallback.DISCONNECTED))
        assert link.epoch == 1


def forging(draw: random.Random) -> Twist:
    """Bytes that are sometimes not what the draft meant."""

    def twist(content: bytes) -> bytes | None:
        match draw.randrange(12):
            case 0:
                return None
            case 1:
                return content[:-3]
            case 2:
                return draw.randbytes(4 * draw.randrange(12))
            case 3:
                at = 4 * draw.randrange(len(content) // 4)
                number = draw.choice([-(2**31), -1, 0, 3, 96, 97, 2**31 - 1])
                return content[:at] + number.to_bytes(4, "little", signed=True) + content[at + 4 :]
            case 4:
                return content + content
            case _:
                return content

    return twist


def test_answers_are_the_same_while_drafts_die_and_lie_on_the_wire(start: Callable[..., DraftProcess]) -> None:
    draw = random.Random(1)
    model = PagedModel(num_blocks=200)
    liar = start(twist=forging(random.Random(2)))
    mortal = start()
    with link_to(liar.address, mortal.address, silence_seconds=0.05) as link:
        speculation = Speculation(
            RemoteDraft(link, clock=time.monotonic), vocab_size=97, clock=time.perf_counter, lookahead=4
        )
        engine = Engine(model, limits=EngineLimits(max_running=8), speculation=speculation)
        for number in count():
            if number >= 30 and speculation.accepted_tokens > 100 and speculation.fallbacks[Fallback.DISCONNECTED]:
                break
            prompts = [[draw.randrange(97) for _ in range(draw.randint(1, 30))] for _ in range(draw.randint(1, 8))]
            answers: dict[str, list[int]] = {}
            for index, prompt in enumerate(prompts):
                engine.add(str(index), prompt, GenerateRequest(max_tokens=20))
            while engine.has_work:
                for output in engine.step():
                    answers.setdefault(output.request_id, []).extend(output.token_ids)
            assert [answers[str(index)] for index in range(len(prompts))] == [
                model.expected(prompt, 20) for prompt in prompts
            ]
            if number % 10 == 9:
                mortal.stop()
                mortal = start(port=mortal.port)


def test_a_name_stands_for_all_its_addresses_and_a_hosts_file_for_dns(tmp_path: Path) -> None:
    assert "127.0.0.1:81" in resolve("localhost:81")
    assert resolve("nobody.invalid:81") == []
    hosts = tmp_path / "hosts"
    hosts.write_text("# drafts\n\nflash-draft:8001 127.0.0.1:5 127.0.0.1:6 # two\nother:1\n")
    assert resolve("flash-draft:8001", hosts) == ["127.0.0.1:5", "127.0.0.1:6"]
    assert resolve("other:1", hosts) == []
