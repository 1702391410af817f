"""Mask, bias and penalties against their plain definitions, token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flash_runtime.engine.adjust import adjuster
from flash_runtime.wire import GenerateRequest

V = 50


class EvenOnly:
    """Allows even tokens."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(V) % 2 == 0

    def advance(self, token_id: int) -> None:
        self.seen.append(token_id)


@pytest.mark.parametrize("plain", [{}, {"temperature": 1.0, "top_k": 3, "min_p": 0.1, "logprobs": 2}])
def test_a_request_that_changes_no_logit_has_no_adjuster(plain: dict[str, float]) -> None:
    assert adjuster(GenerateRequest(max_tokens=1, **plain), [1, 2]) is None  # type: ignore[arg-type]


tokens = st.lists(st.integers(0, V - 1), max_size=150)


@settings(deadline=None)
@given(
    prompt=tokens,
    output=tokens,
    frequency=st.sampled_from([0.0, 0.7, -2.0]),
    presence=st.sampled_from([0.0, 1.5, -0.5]),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    bias=st.dictionaries(st.integers(0, V - 1), st.floats(-100, 100, width=32), max_size=5),
    masked=st.booleans(),
)
def test_logits_change_by_the_plain_definitions(
    prompt: list[int],
    output: list[int],
    frequency: float,
    presence: float,
    repetition: float,
    bias: dict[int, float],
    masked: bool,
) -> None:
    request = GenerateRequest(
        max_tokens=1,
        frequency_penalty=frequency,
        presence_penalty=presence,
        repetition_penalty=repetition,
        logit_bias=bias,
    )
    row = np.random.default_rng(1).normal(scale=4, size=V).astype(np.float32)
    before = row.copy()
    adjust = adjuster(request, prompt, EvenOnly() if masked else None)
    if adjust is None:
        return
    for token in output:
        adjust.advance(token)
    counts = Counter(output)
    expected = []
    for token, logit in enumerate(row.astype(float)):
        biased = logit + bias.get(token, 0.0)
        if token in counts or token in prompt:
            biased = biased / repetition if biased > 0 else biased * repetition
        penalised = biased - frequency * counts[token] - presence * (token in counts)
        expected.append(-np.inf if masked and token % 2 else penalised)
    np.testing.assert_allclose(adjust(row), expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(row, before)


def test_a_mask_is_told_every_token_of_the_output() -> None:
    mask = EvenOnly()
    adjust = adjuster(GenerateRequest(max_tokens=1), [1, 2, 3], mask)
    assert adjust is not None
    for token in (4, 4, 8):
        adjust.advance(token)
    assert mask.seen == [4, 4, 8]


@settings(deadline=None)
@given(prompt=tokens, output=tokens, cut=st.integers(0, 150))
def test_an_answer_that_goes_on_elsewhere_is_penalised_as_if_it_had_not_moved(
    prompt: list[int], output: list[int], cut: int
) -> None:
    penalties = {"frequency_penalty": 0.7, "presence_penalty": 0.5, "repetition_penalty": 1.3}
    whole = adjuster(GenerateRequest(max_tokens=1, **penalties), prompt)  # type: ignore[arg-type]
    cut = min(cut, len(output))
    moved = GenerateRequest(max_tokens=1, num_resumed=cut, **penalties)  # type: ignore[arg-type]
    rest = adjuster(moved, prompt + output[:cut])
    assert whole is not None
    assert rest is not None
    for token_id in output:
        whole.advance(token_id)
    for token_id in output[cut:]:
        rest.advance(token_id)
    row = np.linspace(-5, 5, V, dtype=np.float32)
    np.testing.assert_array_equal(whole(row), rest(row))
