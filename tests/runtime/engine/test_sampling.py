"""Sampling: known answers of the generator, the filters, and the distribution that comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.engine.batch import highest
from flash_runtime.engine.sampling import LOWEST_LOGPROB, logprobs_of, philox, sample, uniform
from flash_runtime.wire import GenerateRequest


def a_request(
    *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0, seed: int = 0
) -> GenerateRequest:
    return GenerateRequest(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == words


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 2**40))
def test_a_uniform_lies_in_its_interval_and_depends_on_seed_and_position_only(seed: int, position: int) -> None:
    value = uniform(seed, position)
    assert 0.0 <= value < 1.0
    assert uniform(seed, position) == value
    assert uniform(seed, position + 1) != value


def test_uniforms_of_neighbouring_seeds_and_positions_fill_the_interval_evenly() -> None:
    values = np.array([uniform(seed, position) for seed in range(50) for position in range(200)])
    counts, _ = np.histogram(values, bins=20, range=(0.0, 1.0))
    chi_square = float(((counts - 500) ** 2 / 500).sum())
    assert chi_square < 43.8  # 99.9 % of 19 degrees of freedom


def test_greedy_takes_the_first_of_the_best_in_each_row() -> None:
    best, is_finite = highest(np.array([[0, 3, 3], [5, 1, 2]], dtype=np.float32))
    assert best.tolist() == [1, 0]
    assert is_finite.all()


@pytest.mark.parametrize("row", [[0.0, np.nan, 1.0], [0.0, np.inf, 1.0], [-np.inf, -np.inf, -np.inf]])
def test_greedy_reports_a_row_without_a_finite_best(row: list[float]) -> None:
    _, is_finite = highest(np.array([row, [0.0, 1.0, 2.0]], dtype=np.float32))
    assert is_finite.tolist() == [False, True]


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {3, 1}),
        ({"top_p": 0.5}, {3}),
        ({"top_p": 0.75}, {3, 1}),
        ({"top_k": 3, "top_p": 0.9}, {3, 1, 0}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        ({"min_p": 0.3}, {3, 1}),
        ({"min_p": 0.2}, {3, 1, 0}),
        ({"min_p": 1.0}, {3}),
        ({"min_p": 0.2, "top_k": 2}, {3, 1}),
        # Of 0.6, 0.2 and 0.15 that min-p leaves, the first two hold 84 %; of all four they would hold only 80 %.
        ({"min_p": 0.2, "top_p": 0.82}, {3, 1}),
        # At temperature 2 the likeliest token is 1.7 times as likely as the next, not 3 times.
        ({"min_p": 0.55, "temperature": 2.0}, {3, 1}),
    ],
)
def test_filters_keep_exactly_the_tokens_they_promise(filters: dict[str, float], allowed: set[int]) -> None:
    logits = np.log(np.array([0.15, 0.2, 0.05, 0.6], dtype=np.float32))
    request = a_request(**filters)  # type: ignore[arg-type]
    assert {sample(logits, request, position) for position in range(300)} == allowed


def test_samples_follow_the_softmax_at_the_temperature() -> None:
    logits = np.array([0.0, 1.0, 2.0, 0.5], dtype=np.float32)
    counts = np.bincount(
        [sample(logits, a_request(temperature=0.7), position) for position in range(8000)], minlength=4
    )
    weights = np.exp(logits.astype(float) / 0.7)
    expected = 8000 * weights / weights.sum()
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 99.9 % of 3 degrees of freedom


def test_equal_logits_at_the_edge_of_top_k_are_ordered_by_token_id() -> None:
    logits = np.zeros(50, dtype=np.float32)
    assert {sample(logits, a_request(top_k=3), position) for position in range(200)} == {0, 1, 2}


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60),
    top_p=st.floats(0.01, 1.0),
    top_k=st.integers(0, 70),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    temperature=st.floats(0.01, 2.0),
    position=st.integers(0, 1000),
)
def test_a_sample_is_always_one_of_the_nucleus_by_the_plain_definition(
    logits: list[float], top_p: float, top_k: int, min_p: float, temperature: float, position: int
) -> None:
    row = np.array(logits, dtype=np.float32)
    token = sample(row, a_request(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p), position)
    order = np.argsort(-row, kind="stable")
    weights = np.exp((row[order] - row.max()).astype(float) / temperature)
    # A margin of rounding: the threshold is a float32 logit.
    order = order[weights >= min_p * (1 - 1e-3)][: top_k or None]
    weights = np.exp((row[order] - row.max()).astype(float) / temperature)
    mass_before = np.concatenate([[0.0], np.cumsum(weights / weights.sum())[:-1]])
    # A margin of rounding: sums in another order differ in the last bits.
    assert token in order[mass_before <= top_p + 1e-9]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
@pytest.mark.parametrize("top_p", [1e-300, 0.5, 1.0])
def test_next_to_temperature_zero_the_best_token_wins(temperature: float, top_p: float) -> None:
    row = np.array([-30.0, 2.0, 40.0, 39.5], dtype=np.float32)
    assert sample(row, a_request(temperature=temperature, top_p=top_p), position=3) == 2


def test_a_token_without_weight_is_never_chosen() -> None:
    row = np.full(40, -np.inf, dtype=np.float32)
    row[[3, 9]] = 0.0
    assert {sample(row, a_request(), position) for position in range(100)} == {3, 9}
    assert {sample(row, a_request(top_p=0.9, top_k=20), position) for position in range(100)} == {3, 9}


@pytest.mark.parametrize("vocab_size", [1, 5, 300, 1000, 49152])
@pytest.mark.parametrize("num_top", [0, 1, 20])
def test_logprobs_are_the_log_softmax_and_its_highest_entries(vocab_size: int, num_top: int) -> None:
    rng = np.random.default_rng(vocab_size)
    row = rng.normal(size=vocab_size).astype(np.float32).round(2)  # rounded: equal logits happen
    token = int(rng.integers(vocab_size))
    expected = row.astype(float) - np.log(np.exp(row.astype(float)).sum())
    logprobs = logprobs_of(row, token, num_top)
    assert logprobs.logprob == pytest.approx(expected[token], abs=1e-5)
    best = np.argsort(-row, kind="stable")[:num_top]
    assert [id_ for id_, _ in logprobs.top] == best.tolist()
    np.testing.assert_allclose([value for _, value in logprobs.top], expected[best], atol=1e-5)


def test_an_impossible_token_has_the_lowest_logprob_that_json_can_say() -> None:
    assert logprobs_of(np.array([0.0, -np.inf], dtype=np.float32), 1, 2).top == ((0, 0.0), (1, LOWEST_LOGPROB))


@pytest.mark.parametrize("vocab_size", [1, 2, 255, 256, 257, 1000, 49152])
def test_a_sample_of_any_vocabulary_is_the_one_that_a_running_sum_finds(vocab_size: int) -> None:
    row = np.random.default_rng(vocab_size).normal(scale=3, size=vocab_size).astype(np.float32)
    cumulative = np.cumsum(np.exp((row - row.max()).astype(float)))
    for position in range(50):
        expected = int(np.searchsorted(cumulative, uniform(7, position) * cumulative[-1], side="right"))
        assert sample(row, a_request(seed=7), position) == expected


@pytest.mark.parametrize("scale", [0.5, 8.0])  # a nucleus of thousands, and one of a few
@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.999])
def test_a_nucleus_of_a_large_vocabulary_is_the_one_of_a_full_sort(scale: float, top_p: float) -> None:
    row = np.random.default_rng(3).normal(scale=scale, size=5000).astype(np.float32)
    weights = np.exp((row - row.max()).astype(float))
    order = np.argsort(-row, kind="stable")
    size = int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1
    nucleus = weights[order][:size]
    for position in range(50):
        index = int(np.searchsorted(np.cumsum(nucleus), uniform(7, position) * nucleus.sum(), side="right"))
        assert sample(row, a_request(seed=7, top_p=top_p), position) == order[index]
