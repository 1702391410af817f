"""What physics allows for the shapes of the engine suite, and what its targets say."""

import limits
import pytest
import shape
import targets


def test_the_synthetic_shape_has_739_million_parameters_of_which_158_are_active() -> None:
    moe = shape.MOE
    body = moe.attention_weights + moe.expert_weights * moe.experts
    assert body + 2 * moe.head_weights == pytest.approx(738.9e6, rel=1e-3)
    assert moe.attention_weights + moe.expert_weights * moe.top_k + moe.head_weights == pytest.approx(158.5e6, rel=1e-3)


def test_a_batch_touches_more_experts_the_larger_it_is() -> None:
    assert limits.touched_experts(shape.MOE, 1) == pytest.approx(4)
    assert limits.touched_experts(shape.MOE, 16) == pytest.approx(28.2, abs=0.1)
    assert limits.touched_experts(shape.DEMO, 16) == 1


@pytest.mark.parametrize(
    ("layers", "head", "rate"), [("int8", "int8", 500), ("bf16", "bf16", 250), ("int4", "int4", 800)]
)
def test_decoding_is_bound_by_the_bytes_of_the_active_weights(layers: str, head: str, rate: float) -> None:
    found = limits.decode_rate(shape.MOE, layers=layers, head=head, batch=1, bandwidth=79.3e9)
    assert found == pytest.approx(rate, rel=0.01)


def test_prefill_is_bound_by_the_products_of_the_active_weights_without_the_head() -> None:
    assert limits.prefill_operations(shape.MOE) == pytest.approx(213.9e6, rel=1e-3)
    assert limits.prefill_rate(shape.MOE, peak=1_945e9) == pytest.approx(9_090, rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.89, "not reached"), (1.9, "reached"), (2.4, "excellent"), (None, "not reached")]
)
def test_a_verdict_follows_from_the_figures(ratio: float | None, verdict: str) -> None:
    target = targets.target_of("decode, batch 1, W8A8", targets.LLAMA_Q8, 2)
    assert target is not None
    assert targets.verdict(target, {"ours": 1.0, "ratio": ratio, "share_of_limit": None}) == verdict


def test_a_fast_first_token_must_also_beat_the_peer_to_be_excellent() -> None:
    target = targets.target_of("first token, 16-token prompt", targets.LLAMA_Q8, 2)
    assert target is not None
    assert targets.verdict(target, {"ours": 8.0, "ratio": 0.5, "share_of_limit": None}) == "not reached"
    assert targets.verdict(target, {"ours": 8.0, "ratio": 0.3, "share_of_limit": None}) == "excellent"
    assert targets.describe(target, "ms") == "≤ 0.33x (≤ 9 ms)"


def test_targets_are_about_two_threads() -> None:
    assert targets.target_of("decode, batch 1, W8A8", targets.LLAMA_Q8, 1) is None
    assert targets.target_of("decode, batch 1, W8A8", "somebody else", 2) is None
