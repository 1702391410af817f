"""Whole steps: against NumPy, which rows and choices come back, and what is refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_shapes import SHAPES

from flash_runtime.engine.batch import NO_TOKEN
from flash_runtime.kernels.provider import CpuProvider

PROMPT = np.random.default_rng(3).integers(0, 101, 150)


@pytest.fixture(scope="session", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Any:
    return tiny_model(**SHAPES[request.param])


def provider(model: Any, **arguments: Any) -> CpuProvider:
    return CpuProvider(model, **{"kv_cache_bytes": 2**21, "threads": 2, **arguments})


def assert_close(model: Any, logits: np.ndarray, expected: np.ndarray) -> None:
    """A value that rounds to the neighbouring int8 or bf16 moves its row a little, and later rows that attend to it.

    Rows before the first such value agree to 1e-6 or so. With int4 weights it comes early, at row 17 of 150, with wide
    heads at row 45; NumPy's own step does the same when its activations change by one unit in the last place.
    """
    difference = np.abs(logits - expected)
    comes_early = "int4" in (model.plan["weight_format"], model.plan["head_format"]) or model.plan["head_dim"] == 70
    assert np.median(difference) < (5e-3 if comes_early else 1e-3)
    assert difference.max() < 0.25 * expected.std()


def test_a_prompt_gives_the_reference_logits(model: Any, emulate: Any, batch: Any, piece: Any, isa: str) -> None:
    logits = provider(model, isa=isa).step(batch(piece(PROMPT, 0, list(range(2, 12))))).logits
    expected = emulate(model, PROMPT)
    assert np.abs(logits - expected)[:16].max() < 1e-5
    assert_close(model, logits, expected)


def test_a_single_token_leaves_most_experts_empty_and_is_right(
    model: Any, emulate: Any, batch: Any, piece: Any, isa: str
) -> None:
    logits = provider(model, isa=isa).step(batch(piece([5], 0, [3]))).logits
    assert_close(model, logits, emulate(model, [5]))


def test_only_the_wanted_rows_come_back_in_their_order(model: Any, batch: Any, piece: Any) -> None:
    whole = batch(piece(PROMPT[:20], 0, [0, 1]))
    logits = provider(model).step(whole).logits
    some = provider(model).step(replace(whole, logit_rows=np.array([19, 3], dtype=np.int32))).logits
    assert np.array_equal(some, logits[[19, 3]])
    none = provider(model).step(replace(whole, logit_rows=np.array([], dtype=np.int32))).logits
    assert none.shape == (0, 101)


def test_the_best_token_of_a_row_is_the_first_of_its_highest_logits(
    tiny_model: Any, batch: Any, piece: Any, isa: str
) -> None:
    model = tiny_model(vocab=1303)
    model.blobs["head.weight"][:] = np.roll(model.blobs["head.weight"], 40, axis=0)  # equals far apart: 82 panels
    model.blobs["head.weight"][41:] = model.blobs["head.weight"][:41]
    model.blobs["head.scale"][656:] = model.blobs["head.scale"][:656]
    whole = batch(piece(np.arange(220) % 101, 0, list(range(14))))
    logits = provider(model, isa=isa).step(whole).logits
    wanted, best = np.array([3, 219, 100], dtype=np.int32), np.arange(219, -1, -1, dtype=np.int32)
    answers = provider(model, isa=isa).step(replace(whole, logit_rows=wanted, best_rows=best))
    assert np.array_equal(answers.logits, logits[wanted])
    assert answers.best.tolist() == logits[best].argmax(axis=1).tolist()
    assert answers.best.max() < 656
    assert provider(model, isa=isa).step(replace(whole, logit_rows=best[:0], best_rows=best)).logits.shape == (0, 1303)


def test_the_best_token_is_none_for_a_row_that_is_not_finite(tiny_model: Any, batch: Any, piece: Any, isa: str) -> None:
    model = tiny_model()
    rows = np.arange(22, dtype=np.int32)
    good, bad = np.arange(20) + 1, 50
    whole = replace(
        batch(piece([bad], 0, [2]), piece(good, 0, [0, 1]), piece([bad], 0, [3])), logit_rows=rows[:0], best_rows=rows
    )
    expected = provider(model, isa=isa).step(whole).best
    assert (expected != NO_TOKEN).all()
    for damage in (np.nan, np.inf):
        scale = model.blob("embedding.scale").copy()
        scale[bad] = damage
        best = provider(model.with_blob("embedding.scale", scale), isa=isa).step(whole).best
        assert best.tolist() == [NO_TOKEN, *expected[1:21].tolist(), NO_TOKEN]


def test_steps_from_several_threads_queue_up(model: Any, batch: Any, piece: Any) -> None:
    shared = provider(model)
    work = [batch(piece(PROMPT[i : i + 20], 0, [2 * i, 2 * i + 1])) for i in range(4)]
    expected = [provider(model).step(item).logits for item in work]
    results: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: shared.step(work[i]).logits})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[i], expected[i]) for i in range(4))


def test_every_choice_of_an_expert_is_counted_by_layer(tiny_model: Any, batch: Any, piece: Any, isa: str) -> None:
    own = provider(tiny_model(experts=5, top_k=2), isa=isa)
    assert own.expert_load().tolist() == [[0] * 5] * 2
    own.step(batch(piece(PROMPT[:40], 0, [0, 1, 2])))
    prompt = own.expert_load()
    own.step(batch(piece([5], 40, [0, 1, 2])))
    assert prompt.sum(axis=1).tolist() == [80, 80]
    token = own.expert_load() - prompt
    assert np.sort(token, axis=1).tolist() == [[0, 0, 0, 1, 1]] * 2


def test_a_dense_model_has_no_expert_load(tiny_model: Any) -> None:
    assert provider(tiny_model()).expert_load() is None


def test_weights_are_read_in_place(tiny_model: Any, batch: Any, piece: Any) -> None:
    model = tiny_model()
    for blob in model.blobs.values():
        blob.flags.writeable = False
    own = provider(model)
    before = own.step(batch(piece([1], 0, [0]))).logits
    blob = model.blobs["head.weight"]
    blob.flags.writeable = True
    blob[:] = 128
    assert before.any()
    assert not own.step(batch(piece([1], 0, [0]))).logits.any()


BAD_BATCHES = [
    ({"token_ids": [0, 101]}, r"token_ids \(101\) must lie in 0..100"),
    ({"token_ids": [-1, 0]}, r"token_ids \(-1\)"),
    ({"positions": [0, 512]}, r"positions \(512\) must lie in 0..511"),
    ({"positions": [0, 16]}, r"block_tables \(-1\)"),
    ({"positions": [0, 40]}, r"blocks of a sequence \(3\) must lie in 0..2"),
    ({"query_starts": [0, 3]}, r"query_starts\[-1\] \(3\) must lie in 2..2"),
    ({"query_starts": [1, 2]}, r"query_starts\[0\]"),
    ({"query_starts": [0, 5, 2], "block_tables": [[0, 1], [2, 3]]}, r"query_starts \(5\)"),
    ({"query_starts": []}, "query_starts must not be empty"),
    ({"block_tables": [[2**30, 0]]}, r"block_tables \(1073741824\)"),
    ({"block_tables": [[0, 1], [0, 1]]}, "block_tables has 2 elements, expected 1"),
    ({"logit_rows": [2]}, r"logit_rows \(2\) must lie in 0..1"),
    ({"best_rows": [0, -1]}, r"best_rows \(-1\) must lie in 0..1"),
    ({"positions": [0]}, "positions has 1 elements, expected 2"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_BATCHES)
def test_a_batch_with_an_index_out_of_range_is_refused(
    tiny_model: Any, batch: Any, piece: Any, changes: dict[str, Any], message: str
) -> None:
    good = batch(piece([1, 2], 0, [0, -1]))
    bad = replace(good, **{name: np.array(value, dtype=np.int32) for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        provider(tiny_model()).step(bad)


def test_a_missing_blob_is_named_with_what_was_expected(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"blob '1.down.scale' is missing, expected float32 \[80\]"):
        provider(tiny_model().without("1.down.scale"))


@pytest.mark.parametrize(
    ("name", "blob", "message"),
    [
        (
            "0.qkv.weight",
            np.zeros((8, 32, 16, 3), np.uint8),
            r"must be uint8 \[8, 32, 16, 4\], found uint8 \[8, 32, 16, 3\]",
        ),
        ("0.qkv.weight", np.zeros((8, 32, 16, 4), np.int8), "found int8"),
        ("final_norm", np.zeros(71, np.float32), r"must be float32 \[72\], found float32 \[71\]"),
        ("inv_freq", np.zeros(6, np.float64), "found float64"),
    ],
)
def test_a_blob_of_the_wrong_size_or_type_is_named(tiny_model: Any, name: str, blob: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"blob '{name}'.*{message}"):
        provider(tiny_model().with_blob(name, blob))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 4}, r"num_heads \(6\) must be a multiple of num_kv_heads \(4\)"),
        ({"head_dim": 13}, r"head_dim \(13\) must be even"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": 3}, "num_layers is 3"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(tiny_model: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        provider(tiny_model().with_plan(**changes))


def test_more_experts_per_token_than_there_are_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"layers.0.mlp: top_k \(5\) must not exceed num_experts \(4\)"):
        provider(tiny_model(experts=4, top_k=5))


def test_a_cache_too_small_for_a_request_names_the_bytes_it_needs(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"kv_cache_bytes \(1000\) must be at least 14336: 4 blocks of 16 tokens"):
        provider(tiny_model(), kv_cache_bytes=1000)


def test_the_cache_holds_as_many_blocks_as_the_bytes_allow(tiny_model: Any) -> None:
    assert provider(tiny_model(), kv_cache_bytes=14336 + 3583).num_blocks == 4
    assert provider(tiny_model(), kv_cache_bytes=14336 + 3584).num_blocks == 5


def test_a_block_size_the_kernels_cannot_page_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"block_size \(24\) must be a positive multiple of 16"):
        provider(tiny_model(), block_size=24)


def windowed(tiny_model: Any) -> Any:
    model = tiny_model(window=20)
    layers = [{**layer, "window": window} for layer, window in zip(model.plan["layers"], (20, 40), strict=True)]
    return model.with_plan(layers=layers)


def test_blocks_before_the_window_of_all_layers_are_never_read(
    tiny_model: Any, batch: Any, piece: Any, isa: str
) -> None:
    model = windowed(tiny_model)
    absent = next(token for token in range(101) if token not in PROMPT)
    scale = model.blob("embedding.scale").copy()
    scale[absent] = np.nan
    own = provider(model.with_blob("embedding.scale", scale), isa=isa)
    assert own.window == 40
    blocks = list(range(10))
    whole = own.step(batch(piece(PROMPT, 0, blocks))).logits
    own.step(batch(piece([absent] * 96, 0, blocks[:6])))  # somebody else's now
    # position 140 sees 101 and later, so block 6 and later
    after = own.step(batch(piece(PROMPT[140:], 140, [-1] * 6 + blocks[6:]))).logits
    assert np.array_equal(after, whole[140:])


def test_a_block_that_some_layer_sees_must_be_there(tiny_model: Any, batch: Any, piece: Any) -> None:
    step = batch(piece(PROMPT[140:], 140, [-1] * 7 + [7, 8, 9]))
    with pytest.raises(ValueError, match=r"block_tables \(-1\) must lie in 0.."):
        provider(windowed(tiny_model)).step(step)
    with pytest.raises(ValueError, match=r"block_tables \(-1\) must lie in 0.."):  # one layer sees everything
        provider(tiny_model(window=20)).step(step)


def test_attention_over_several_splits_is_right(tiny_model: Any, emulate: Any, batch: Any, piece: Any) -> None:
    model = tiny_model(hidden=64, heads=4, head_dim=8, width=64).with_plan(max_context_tokens=4096)
    prompt = np.random.default_rng(4).integers(0, 101, 1100)
    own = provider(model)
    own.step(batch(piece(prompt[:1020], 0, list(range(69)))))
    rest = own.step(batch(piece(prompt[1020:], 1020, list(range(69))))).logits
    assert_close(model, rest, emulate(model, prompt)[1020:])
