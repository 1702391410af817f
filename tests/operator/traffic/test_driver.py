"""The driver against an endpoint made of a function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_operator.traffic import goldens
from flash_operator.traffic.driver import FIRST_WINDOW, Driver
from flash_operator.traffic.stream import Ending, Endpoint, Question, Stream, TrafficError
from flash_operator.traffic.tally import Verdict, Window, percentile, total

ENDPOINT = Endpoint("http://unused/v1", "chat")
QUESTIONS = [Question(text, 8) for text in ("one", "two", "three")]


class Served:
    """Answers each prompt with its own text, or with what a test puts in its way."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.instead: Iterator[Stream] = iter(())
        self._lock = threading.Lock()

    def __call__(self, endpoint: Endpoint, question: Question, clock: Callable[[], float]) -> Stream:
        with self._lock:
            self.asked.append(question.prompt)
            return next(self.instead, Stream(Ending.WHOLE, question.prompt[::-1], 3, 0.01, 0.002))


def a_driver(served: Served, **options: int) -> Driver:
    return Driver(ENDPOINT, QUESTIONS, ask=served, concurrency=options.pop("concurrency", 1), **options)


def run(served: Served, streams: int) -> Driver:
    driver = a_driver(served, max_streams=streams)
    driver.start()
    assert driver.wait(30)
    driver.stop()
    return driver


def test_every_prompt_is_asked_once_before_the_first_window_and_in_turn_after_it() -> None:
    served = Served()
    driver = a_driver(served, max_streams=6)
    driver.learn()
    assert served.asked == ["one", "two", "three"]
    driver.start()
    assert driver.wait(30)
    assert served.asked[3:] == ["one", "two", "three"] * 2
    (window,) = driver.windows
    assert (window.name, window.num_streams, driver.flawless) == (FIRST_WINDOW, 6, True)


@pytest.mark.parametrize(
    ("stream", "verdict", "cause"),
    [
        (Stream(Ending.WHOLE, "another text", 3, 0.01, 0.002), Verdict.CHANGED, "changed"),
        (Stream(Ending.TRUNCATED, "on", 1, 0.01, cause="engine_failed"), Verdict.TRUNCATED, "engine_failed"),
        (Stream(Ending.FAILED, cause="HTTP 503 engine_unavailable"), Verdict.FAILED, "HTTP 503 engine_unavailable"),
    ],
)
def test_a_flaw_is_counted_with_its_cause(stream: Stream, verdict: Verdict, cause: str) -> None:
    served = Served()
    driver = a_driver(served, max_streams=5)
    driver.learn()
    served.instead = iter([stream])
    driver.start()
    assert driver.wait(30)
    (window,) = driver.windows
    assert (window.num_streams, window.verdicts[verdict], window.causes[cause]) == (5, 1, 1)
    assert not driver.flawless


def test_a_stream_belongs_to_the_window_in_which_it_ends() -> None:
    driver = a_driver(Served(), concurrency=2)
    driver.learn()
    driver.start()
    assert driver.wait_for_streams(10, 30)
    driver.mark("update")
    assert driver.wait_for_streams(10, 30)
    driver.mark("after")
    driver.stop()
    steady, update, after = driver.windows
    assert [w.name for w in (steady, update, after)] == ["steady", "update", "after"]
    assert min(steady.num_streams, update.num_streams) >= 10
    assert steady.ended == update.began
    assert total(driver.windows).num_streams == sum(w.num_streams for w in driver.windows)


def test_without_an_answer_in_peace_there_is_no_traffic() -> None:
    served = Served()
    served.instead = iter([Stream(Ending.FAILED, cause="HTTP 401 invalid_api_key")])
    with pytest.raises(TrafficError, match=r"prompt 1 of 3 .*HTTP 401 invalid_api_key"):
        a_driver(served).learn()


def test_no_stream_at_all_is_not_flawless() -> None:
    driver = a_driver(Served(), max_streams=1)
    assert not driver.flawless


def test_golden_answers_outlive_the_run_without_a_word_of_prompt_or_answer(tmp_path: Path) -> None:
    served = Served()
    driver = a_driver(served)
    driver.learn()
    file = tmp_path / "golden.json"
    goldens.save(file, driver.goldens)
    assert not any(question.prompt in file.read_text() for question in QUESTIONS)
    known = goldens.load(file, QUESTIONS)
    again = Driver(ENDPOINT, QUESTIONS, ask=served, concurrency=1, goldens=known)
    before = len(served.asked)
    again.learn()
    assert len(served.asked) == before
    assert goldens.load(file, [Question("one", 9)]) == {}


def test_a_file_that_holds_no_golden_answers_is_named(tmp_path: Path) -> None:
    file = tmp_path / "golden.json"
    for text in ("[]", "{", '{"version": 9, "answers": {}}'):
        file.write_text(text)
        with pytest.raises(TrafficError, match="--golden"):
            goldens.load(file, QUESTIONS)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99)] == [50.0, 90.0, 99.0]
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_the_row_for_tools_has_everything_that_the_table_shows() -> None:
    window = Window("update", 1.0, 3.5)
    window.add(Stream(Ending.WHOLE, "x", 3, 0.0123, 0.002, 0.0456), Verdict.RIGHT)
    assert window.as_json(9.0) == {
        "window": "update",
        "seconds": 2.5,
        "streams": 1,
        "failed": 0,
        "truncated": 0,
        "changed": 0,
        "ttftMilliseconds": {"p50": 12.3, "p90": 12.3, "p99": 12.3},
        "tpotMilliseconds": {"p50": 2.0, "p90": 2.0, "p99": 2.0},
        "longestPauseMilliseconds": 45.6,
        "causes": {},
    }


def test_the_longest_pause_of_a_window_is_that_of_its_worst_stream_and_of_a_run_that_of_its_worst_window() -> None:
    windows = Window("a", 0.0, 1.0), Window("b", 1.0, 2.0), Window("c", 2.0, 3.0)
    for window, pause in ((windows[0], 0.5), (windows[0], 0.25), (windows[1], 2.0)):
        window.add(Stream(Ending.WHOLE, longest_pause_seconds=pause), Verdict.RIGHT)
    windows[0].add(Stream(Ending.FAILED, cause="HTTP 503"), Verdict.FAILED)
    assert [window.longest_pause_seconds for window in windows] == [0.5, 2.0, None]
    assert total(windows).longest_pause_seconds == 2.0
    assert total(windows[2:]).longest_pause_seconds is None
