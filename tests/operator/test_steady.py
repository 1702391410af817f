"""When a look at the endpoint is as good as a pass."""

import pytest

from flash_api.v1alpha1.status_details import Latency
from flash_operator.status import ProbeResult
from flash_operator.steady import Steady


@pytest.mark.parametrize(
    ("written", "told", "holds"),
    [
        (None, {}, True),
        (None, {"ttft": 80.0}, False),
        (100, {"ttft": 110.0}, True),
        (100, {"ttft": 150.0}, False),
        (100, {}, True),
    ],
)
def test_what_users_felt_ends_the_steadiness_only_where_it_would_be_written(
    written: int | None, told: dict[str, float], holds: bool
) -> None:
    known = Steady("http://chat/readyz", None if written is None else Latency(ttft_milliseconds=written))
    assert known.holds(ProbeResult(ok=True, message="", milliseconds=told)) is holds


def test_an_endpoint_that_does_not_answer_is_not_steady() -> None:
    assert not Steady("http://chat/readyz", None).holds(ProbeResult(ok=False, message="503"))
