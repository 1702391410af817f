"""Streamed text is the text: no half characters, nothing lost, nothing twice, nothing after a stop string."""

from __future__ import annotations

from fakes.tiny_text import byte_fallback_json, text_assets
from hypothesis import given
from hypothesis import strategies as st

from flash_runtime.text.assets import TextAssets
from flash_runtime.text.stream import MAX_WINDOW_TOKENS, Detokenizer, StopScanner
from flash_runtime.text.tokenizer import Tokenizer

BYTE_LEVEL = Tokenizer(text_assets())
BYTE_FALLBACK = Tokenizer(
    TextAssets(tokenizer_json=byte_fallback_json(), header=text_assets().header.model_copy(update={"bos_token": None}))
)
TOKENIZERS = st.sampled_from([BYTE_LEVEL, BYTE_FALLBACK])


def cut(items: list[int] | str, sizes: list[int]) -> list[list[int] | str]:
    """`items` in pieces of the given sizes, again and again."""
    pieces, start = [], 0
    while start < len(items):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(items[start : start + size])
        start += size
    return pieces


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(st.text(max_size=60), SIZES, TOKENIZERS)
def test_pieces_join_to_the_whole_text(text: str, sizes: list[int], tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer.decode)
    pieces = [detokenizer.push(part) for part in cut(ids, sizes)]
    whole = tokenizer.decode(ids)
    # A real U+FFFD at the very end cannot be told from half a character.
    assert "".join(pieces) == whole or (whole.endswith("\ufffd") and whole.startswith("".join(pieces)))


@given(st.text(alphabet="é😀漢x ", min_size=1, max_size=20), SIZES, TOKENIZERS)
def test_no_piece_holds_half_a_character(text: str, sizes: list[int], tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    for part in cut(tokenizer.encode(text), sizes):
        assert "\ufffd" not in detokenizer.push(part)


@given(st.lists(st.integers(0, 270), max_size=80), SIZES, TOKENIZERS)
def test_any_token_ids_give_a_beginning_of_their_text(ids: list[int], sizes: list[int], tokenizer: Tokenizer) -> None:
    """Bytes that are no UTF-8 included: the byte-level decoder, whose text only grows, is followed exactly."""
    detokenizer = Detokenizer(tokenizer.decode)
    given_out = "".join(detokenizer.push(part) for part in cut(ids, sizes))
    whole = tokenizer.decode(ids)
    if tokenizer is BYTE_LEVEL:
        assert whole.startswith(given_out)
        assert not whole[len(given_out) :].strip("\ufffd")


def test_a_long_answer_of_control_tokens_keeps_the_window_small() -> None:
    seen = []

    def decode(ids: list[int]) -> str:
        seen.append(len(ids))
        return BYTE_LEVEL.decode(ids)

    detokenizer = Detokenizer(decode)
    start = BYTE_LEVEL.encode("hello")
    end = BYTE_LEVEL.encode(" world")
    text = detokenizer.push(start)
    for _ in range(500):
        text += detokenizer.push([2])
    text += detokenizer.push(end)
    assert text == "hello world"
    assert max(seen) <= len(start) + len(end) + 1


def test_endless_broken_bytes_keep_the_window_small() -> None:
    lone_byte = BYTE_LEVEL.encode("é")[0]
    lengths = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return BYTE_LEVEL.decode(ids)

    detokenizer = Detokenizer(decode)
    for _ in range(1000):
        detokenizer.push([lone_byte])
    assert max(lengths) <= 2 * MAX_WINDOW_TOKENS + 2


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=4),
    SIZES,
)
def test_the_cut_does_not_depend_on_how_the_text_is_split(text: str, stops: list[str], sizes: list[int]) -> None:
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    expected = text[: min(ends)[1]] if ends else text
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(piece) for piece in cut(text, sizes)) + scanner.finish()
    assert (shown, scanner.stopped) == (expected, bool(ends))


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    scanner = StopScanner(["END"])
    assert [scanner.push(piece) for piece in ["abc", "E", "x", "EN", "D", "more"]] == ["abc", "", "Ex", "", "", ""]
    assert scanner.stopped


def test_without_stop_strings_text_passes() -> None:
    scanner = StopScanner([])
    assert scanner.push("abc") + scanner.finish() == "abc"
