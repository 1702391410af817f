"""Percentiles of the last minutes."""

from __future__ import annotations

from fakes.scripted_engine import a_chat, a_stack

from flash_runtime.gateway.recent import SAMPLES_MAX, WINDOW_SECONDS, Recent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nine_of_ten_stay_at_or_below_it() -> None:
    recent = Recent(Clock())
    for seconds in (5, 1, 9, 3, 7, 2, 10, 4, 8, 6):
        recent.observe(seconds)
    assert recent.percentile() == 9


def test_what_is_older_than_the_window_does_not_count() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert recent.percentile() is None
    recent.observe(1.0)
    clock.now = WINDOW_SECONDS
    recent.observe(2.0)
    assert recent.percentile() == 2.0
    clock.now = WINDOW_SECONDS + 1
    assert recent.percentile() == 2.0
    clock.now = 2 * WINDOW_SECONDS + 1
    assert recent.percentile() is None


def test_a_busy_gateway_keeps_the_newest() -> None:
    recent = Recent(Clock())
    for index in range(SAMPLES_MAX * 2):
        recent.observe(float(index))
    assert recent.percentile() == SAMPLES_MAX + 0.9 * SAMPLES_MAX - 1


async def test_readyz_tells_what_clients_felt_and_not_what_its_own_request_took() -> None:
    stack = a_stack()
    async with stack.client() as client:
        assert "server-timing" not in (await client.get("/readyz")).headers
        await client.post("/v1/chat/completions", json=a_chat())
        told = (await client.get("/readyz")).headers["server-timing"]
    assert told.startswith("ttft;dur=")
