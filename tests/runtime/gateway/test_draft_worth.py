"""What a gateway tells of proposals, from the pages of its engines."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.scripted_engine import a_stack

from flash_api.draft_report import HEADER, DraftReport, told
from flash_runtime.gateway.draft_watch import REFRESH_SECONDS, DraftWatch
from flash_runtime.gateway.draft_worth import WINDOW_SECONDS, DraftWorth, Page, read_page


def a_page(
    *,
    generated: int = 0,
    answers: int = 0,
    proposed: int = 0,
    accepted: int = 0,
    active: int = 1,
    speed_up: float = 1.5,
    why_not: str = "",
    **fallbacks: int,
) -> str:
    lines = [
        *("# TYPE flash_engine_generated_tokens_total counter", f"flash_engine_generated_tokens_total {generated}"),
        f"flash_engine_sequence_steps_total {answers}",
        f'flash_engine_proposed_tokens_total{{model="chat"}} {proposed}',
        f'flash_engine_accepted_tokens_total{{model="chat"}} {accepted}',
        f'flash_engine_draft_active{{model="chat"}} {active}',
        f'flash_engine_draft_speed_up{{model="chat"}} {speed_up}',
        *(
            f'flash_engine_draft_inactive{{model="chat",reason="{reason}"}} {int(reason == why_not)}'
            for reason in ("late", "below_break_even")
        ),
        *(
            f'flash_engine_draft_fallbacks_total{{model="chat",reason="{reason}"}} {count}'
            for reason, count in fallbacks.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def page(**counts: Any) -> Page:
    found = read_page(a_page(**counts))
    assert found is not None
    return found


def worth(*looks: dict[str, Page]) -> DraftReport:
    found = DraftWorth()
    for number, pages in enumerate(looks):
        found.take(pages, float(number))
    report = found.report()
    assert report is not None
    return report


def test_what_is_told_is_what_was_counted_between_two_looks_over_all_engines() -> None:
    before = {"a": page(generated=1000, answers=1000, proposed=900), "b": page()}
    after = {
        "a": page(generated=1200, answers=1100, proposed=1000, accepted=80, speed_up=1.5),
        "b": page(generated=400, answers=200, proposed=300, accepted=120, speed_up=2.0),
    }
    report = worth(before, after)
    assert report.acceptance == (80 + 120) / (100 + 300)
    assert report.tokens_per_step == (200 + 400) / (100 + 200)
    assert report.speedup == pytest.approx((1.5 * 1200 + 2.0 * 400) / 1600)
    assert (report.active, report.why_not) == (True, None)


def test_an_engine_that_is_seen_for_the_first_time_counts_since_then() -> None:
    report = worth({"a": page(generated=5000, answers=5000)})
    assert (report.active, report.acceptance, report.tokens_per_step) == (None, None, None)


def test_an_engine_that_was_started_anew_counts_from_zero() -> None:
    report = worth({"a": page(generated=5000, answers=5000)}, {"a": page(generated=90, answers=45)})
    assert report.tokens_per_step == 2.0


def test_a_few_tokens_say_nothing() -> None:
    report = worth({"a": page()}, {"a": page(generated=9, answers=9, proposed=4, accepted=4)})
    assert (report.acceptance, report.tokens_per_step) == (None, None)


def test_what_is_older_than_the_window_does_not_count() -> None:
    found = DraftWorth()
    found.take({"a": page()}, 0.0)
    found.take({"a": page(generated=100, answers=100)}, 1.0)
    found.take({"a": page(generated=300, answers=200)}, WINDOW_SECONDS + 2.0)
    report = found.report()
    assert report is not None
    assert report.tokens_per_step == 2.0


def test_why_proposals_are_not_used_is_the_engines_word_or_what_it_counted_most() -> None:
    idle = {"generated": 90, "answers": 90, "active": 0, "late": 3, "below_break_even": 2}
    assert worth({"a": page()}, {"a": page(**idle, why_not="below_break_even")}).why_not == "below_break_even"
    counted = worth({"a": page()}, {"a": page(**idle)})
    assert (counted.active, counted.why_not) == (False, "late")


def test_proposals_are_used_where_any_engine_uses_them() -> None:
    idle, busy = page(generated=90, answers=90, active=0, why_not="late"), page(generated=90, answers=50, active=1)
    assert worth({"a": page(), "b": page()}, {"a": idle, "b": busy}).active is True


def test_an_engine_without_an_occasion_yet_says_neither() -> None:
    report = worth({"a": page()}, {"a": page(generated=1, answers=1, active=0, speed_up=1.0)})
    assert (report.active, report.why_not, report.speedup) == (None, None, None)


@pytest.mark.parametrize("text", ["", "no metrics {", "up 1\n", "flash_engine_draft_fallbacks_total 3\n"])
def test_a_page_that_is_not_of_an_engine_says_nothing(text: str) -> None:
    assert read_page(text) is None


class Engines:
    """Pages on paper."""

    def __init__(self, *pages: str) -> None:
        self.pages = list(pages)
        self.asked: list[str] = []

    async def addresses(self) -> tuple[str, ...]:
        return ("10.0.0.1:8002", "10.0.0.2:8002")

    async def __call__(self, url: str) -> str | None:
        self.asked.append(url)
        if "10.0.0.2" in url:
            return None
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]

    async def aclose(self) -> None:
        self.pages.clear()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_readiness_tells_what_the_last_look_found_and_waits_for_none() -> None:
    engines, clock = Engines(a_page(), a_page(generated=100, answers=50, proposed=80, accepted=40)), Clock()
    watch = DraftWatch(engines, engines, clock=clock)
    async with a_stack(drafts=watch).client() as client:
        first = await client.get("/readyz")
        assert (first.status_code, HEADER in first.headers) == (200, False)
        answer = first
        while "acceptance" not in answer.headers.get(HEADER, ""):
            clock.now += REFRESH_SECONDS
            answer = await client.get("/readyz")
            await watch.settled()
    report = told(answer.headers[HEADER])
    assert report == DraftReport(active=True, acceptance=0.5, tokens_per_step=2.0, speedup=1.5)
    assert engines.asked[0] == "http://10.0.0.1:8002/metrics"
    await watch.aclose()


async def test_a_gateway_without_a_draft_says_nothing_of_one() -> None:
    async with a_stack().client() as client:
        assert HEADER not in (await client.get("/readyz")).headers
