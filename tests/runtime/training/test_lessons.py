"""What the teacher thinks of text is written down as it would say it, whoever wrote the text."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_gguf import write_gguf

from flash_runtime.engine.batch import FloatArray, Provider
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.opened import native_provider
from flash_runtime.model.pack import pack
from flash_runtime.model.sequence import Sequence
from flash_runtime.training.schedule import rate
from flash_runtime.training.teacher import KEPT, Lessons, likeliest, read_lessons, write_lessons

LENGTH = 24
NOBODY = range(1000, 1001)
"""An end token that never comes."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    folder = tmp_path_factory.mktemp("teacher")
    path = folder / "model.flash"
    checkpoint = open_checkpoint(write_gguf(folder / "tiny.gguf", "llama"))
    pack(checkpoint, path, variant="Lite", progress=lambda done, total: None)
    return native_provider(path, cached_tokens=8 * 32)


def written(teacher: Provider, *, temperature: float = 0.0, ends: tuple[int, ...] = tuple(NOBODY)) -> Lessons:
    prompts = [np.arange(start, start + 5, dtype=np.int32) for start in range(0, 200, 20)]
    return write_lessons(
        teacher,
        prompts,
        length=LENGTH,
        end_tokens=ends,
        temperatures=(temperature,),
        seed=3,
        on_tokens=lambda count: None,
    )


def logprobs(logits: FloatArray) -> FloatArray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: FloatArray = np.log(exponents / exponents.sum(axis=1, keepdims=True))
    return found


def test_the_likeliest_tokens_are_those_of_a_full_sort() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 1000)).astype(np.float32)
    logits[0, 7] = logits[0, 3]

    ids, found = likeliest(logits)

    order = np.argsort(-logits, axis=1, kind="stable")[:, :KEPT]
    assert np.array_equal(ids, order)
    assert np.allclose(found, np.take_along_axis(logprobs(logits), order, axis=1), atol=1e-5)


def test_at_temperature_zero_the_teacher_writes_what_it_finds_likeliest(teacher: Provider) -> None:
    lessons = written(teacher)

    assert len(lessons.token_ids) == 10
    assert set(lessons.lengths) == {LENGTH}
    assert set(lessons.prompts) == {5}
    assert np.array_equal(lessons.token_ids[:, 5:], lessons.top_ids[:, 4:-1, 0])


def test_reading_what_was_written_finds_the_same_expectations(teacher: Provider) -> None:
    lessons = written(teacher)

    again = read_lessons(teacher, list(lessons.token_ids), on_tokens=lambda count: None)

    assert np.array_equal(again.top_ids, lessons.top_ids)
    assert np.array_equal(again.top_logprobs, lessons.top_logprobs)
    expected = logprobs(Sequence(teacher).feed(lessons.token_ids[0]))
    best = np.take_along_axis(expected, lessons.top_ids[0], axis=1)
    assert np.allclose(best, lessons.top_logprobs[0], atol=0.02)


def test_sampling_follows_its_seed(teacher: Provider) -> None:
    first, second, greedy = (written(teacher, temperature=t) for t in (0.9, 0.9, 0.0))

    assert np.array_equal(first.token_ids, second.token_ids)
    assert not np.array_equal(first.token_ids, greedy.token_ids)


def test_an_answer_ends_at_an_end_token(teacher: Provider) -> None:
    unending = written(teacher)
    end = int(unending.token_ids[0, 9])

    lessons = written(teacher, ends=(end,))

    shortest = lessons.lengths.argmin()
    length = lessons.lengths[shortest]
    assert length < LENGTH
    assert lessons.token_ids[shortest, length] == end
    assert not lessons.token_ids[shortest, length + 1 :].any()


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (9, 1.0), (70, 1.0), (75, 1.0), (90, 0.4), (99, 0.05)])
def test_the_rate_rises_stays_and_falls(step: int, expected: float) -> None:
    assert rate(step, 100) == pytest.approx(expected)
