"""What users felt: read from the gateway's header, written in steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_api.v1alpha1.status_details import Latency
from flash_operator.latency import STEP, latency, told
from flash_runtime.gateway.recent import server_timing


def test_what_the_gateway_writes_is_what_the_operator_reads() -> None:
    assert told(server_timing(ttft=0.0623, tpot=0.0179)["server-timing"]) == {"ttft": 62.3, "tpot": 17.9}
    assert server_timing(ttft=None, tpot=None) == {}


@pytest.mark.parametrize("header", ["", "ttft", "ttft;dur=", "ttft;dur=-3", "ttft;dur=1e9", "db;dur=3", "ttft;dur=nan"])
def test_other_headers_say_nothing(header: str) -> None:
    assert told(header) == {}


@given(st.text(max_size=80))
def test_no_header_is_an_error(header: str) -> None:
    assert all(value >= 0 for value in told(header).values())


def test_without_requests_nothing_is_written_and_nothing_is_taken_back() -> None:
    assert latency({}, None) is None
    assert latency({}, {"ttftMilliseconds": 62}) == Latency(ttft_milliseconds=62)


def test_figures_are_rounded_to_two_digits_and_at_least_one() -> None:
    assert latency({"ttft": 1234.5, "tpot": 0.2}, None) == Latency(ttft_milliseconds=1200, tpot_milliseconds=1)


def test_each_figure_moves_by_itself() -> None:
    written = {"ttftMilliseconds": 100, "tpotMilliseconds": 20}
    assert latency({"ttft": 110.0, "tpot": 40.0}, written) == Latency(ttft_milliseconds=100, tpot_milliseconds=40)


@given(st.integers(1, 10**6), st.floats(1 - 0.99 * STEP, 1 + 0.99 * STEP))
def test_a_wobble_is_never_written(first: int, factor: float) -> None:
    written = latency({"ttft": float(first)}, None)
    assert written is not None
    assert written.ttft_milliseconds is not None
    assert latency({"ttft": written.ttft_milliseconds * factor}, written.model_dump(by_alias=True)) == written
