"""The arithmetic of `flash eval`, and the text it brings along."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_gguf

from flash_runtime.engine.batch import Answers, Batch
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.errors import RequestError
from flash_runtime.model.eval_text import built_in_samples, file_samples
from flash_runtime.model.evaluate import evaluate, windows_of
from flash_runtime.model.pack import pack
from flash_runtime.model.sequence import CHUNK_TOKENS, Sequence
from flash_runtime.text.assets import TextAssets

VOCAB = 8


class Table:
    """A provider whose logits follow from the token alone; `tilt` changes what it thinks of token 0."""

    vocab_size, max_context_tokens, num_blocks, block_size = VOCAB, 1024, 64, 16

    def __init__(self, tilt: float = 0.0) -> None:
        self.logits = np.random.default_rng(1).normal(size=(VOCAB, VOCAB)).astype(np.float32)
        self.logits[:, 0] += tilt
        self.seen: list[np.ndarray] = []

    def step(self, batch: Batch) -> Answers:
        self.seen.append(batch.positions)
        assert np.array_equal(batch.block_tables[0], np.arange(-(-(batch.positions[-1] + 1) // 16)))
        return Answers.of(self.logits[batch.token_ids[batch.logit_rows]], batch)


@pytest.fixture
def text() -> np.ndarray:
    return np.random.default_rng(2).integers(0, VOCAB, 300).astype(np.int32)


def test_perplexity_is_that_of_the_definition(text: np.ndarray) -> None:
    scores = evaluate(Table(), {}, [text])
    table = Table().logits.astype(np.float64)
    log_probability = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    expected = np.exp(-log_probability[text[:-1], text[1:]].mean())
    assert scores[None].perplexity == pytest.approx(expected, rel=1e-6)
    assert scores[None].tokens == 299


def test_a_provider_that_agrees_costs_nothing(text: np.ndarray) -> None:
    same = evaluate(Table(), {"twin": Table()}, [text])["twin"]
    assert (same.change, same.change_error, same.divergence, same.same_top) == (0, 0, 0, 1)


def test_change_and_divergence_are_those_of_the_definition(text: np.ndarray) -> None:
    scores = evaluate(Table(), {"other": Table(tilt=0.5)}, [text[:150], text[150:]])
    other = scores["other"]
    assert other.perplexity == pytest.approx(scores[None].perplexity * (1 + other.change), rel=1e-6)
    p, q = (np.exp(t.logits) / np.exp(t.logits).sum(axis=1, keepdims=True) for t in (Table(), Table(tilt=0.5)))
    divergence = (p * np.log(p / q)).sum(axis=1)
    scored = np.concatenate([text[:149], text[150:-1]])
    assert other.divergence == pytest.approx(divergence[scored].mean(), rel=1e-4)
    assert other.same_top == pytest.approx((p.argmax(1) == q.argmax(1))[scored].mean())
    assert other.change_error > 0


def test_a_window_is_fed_in_chunks_from_its_first_position(text: np.ndarray) -> None:
    table = Table()
    evaluate(table, {}, [text, text[:5]])
    assert [len(positions) for positions in table.seen] == [CHUNK_TOKENS, CHUNK_TOKENS, 299 - 2 * CHUNK_TOKENS, 4]
    assert np.array_equal(np.concatenate(table.seen[:3]), np.arange(299))


def test_progress_reaches_the_number_of_tokens(text: np.ndarray) -> None:
    told: list[int] = []
    evaluate(Table(), {}, [text], on_tokens=told.append)
    assert sum(told) == 299


def test_a_sequence_longer_than_the_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="would be 1025 tokens long, the model's cache holds 1024"):
        Sequence(Table()).feed(np.zeros(1025, dtype=np.int32))


def test_windows_are_spread_over_a_long_text_and_cover_a_short_one() -> None:
    long, short = np.arange(10_000, dtype=np.int32), np.arange(700, dtype=np.int32)
    windows = windows_of(long, max_tokens=1024, window_tokens=256)
    assert [window[0] for window in windows] == [0, 2500, 5000, 7500]
    assert {len(window) for window in windows} == {256}
    assert [len(window) for window in windows_of(short, max_tokens=1024, window_tokens=256)] == [256, 256, 188]
    assert [len(window) for window in windows_of(short[:257], max_tokens=1024, window_tokens=256)] == [256]


@pytest.fixture
def assets(tmp_path: Path) -> TextAssets:
    pack(
        open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama")),
        tmp_path / "m.flash",
        variant="Lite",
        progress=lambda done, total: None,
        text_only=True,
    )
    return TextAssets.from_packed(tmp_path / "m.flash")


def test_the_text_that_python_brings_is_long_and_always_the_same(assets: TextAssets) -> None:
    first, again = built_in_samples(assets), built_in_samples(assets)
    assert [sample.name for sample in first] == ["prose", "chat"]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.token_ids, other.token_ids)
        assert len(one.token_ids) > 50_000


def test_a_python_without_its_reference_says_what_to_do(assets: TextAssets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(RequestError, match=r"has no pydoc_data\.topics; give a text of your own with --text FILE"):
        built_in_samples(assets)


def test_a_file_becomes_a_sample_of_its_name(assets: TextAssets, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100)
    (sample,) = file_samples(assets, [tmp_path / "a.txt"])
    assert (sample.name, len(sample.token_ids)) == ("a.txt", 100)
