"""The tokenizer that a GGUF file carries, in the form the gateway loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import tokens, write_gguf
from tokenizers import Tokenizer

from flash_runtime.model.checkpoint import TextAssets, open_checkpoint
from flash_runtime.model.errors import CheckpointError, UnsupportedModel


def text_of(folder: Path, **changes: Any) -> TextAssets:
    return open_checkpoint(write_gguf(folder / "m.gguf", "llama", metadata=changes)).text()


def test_text_survives_the_way_there_and_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_buffer(text_of(tmp_path).tokenizer_json)
    text = "Then the hare said: 42 naïve 🙂\n\n  <|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_merges_apply(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_buffer(text_of(tmp_path).tokenizer_json)
    assert tokenizer.encode(" the").tokens == ["Ġt", "he"]


def test_each_special_token_is_one_token_and_marked_special(tmp_path: Path) -> None:
    text = text_of(tmp_path)
    tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
    assert text.special_tokens == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    assert tokenizer.encode("<|im_start|>hi<|im_end|>").ids[0] == 257
    assert tokenizer.decode(tokenizer.encode("<|im_start|>hi<|im_end|>").ids) == "hi"


def test_user_defined_tokens_are_whole_but_not_special(tmp_path: Path) -> None:
    types = [3 if token.startswith("<|") else 1 for token in tokens()]
    types[256] = 4
    tokenizer = Tokenizer.from_buffer(text_of(tmp_path, token_type=types).tokenizer_json)
    ids = tokenizer.encode("a<|endoftext|>").ids
    assert ids[-1] == 256
    assert tokenizer.decode(ids) == "a<|endoftext|>"


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("gpt-2", ["1234"]),
    ],
)
def test_digits_are_split_as_the_model_learned_them(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    tokenizer = Tokenizer.from_buffer(text_of(tmp_path, pre=pre).tokenizer_json)
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("1234")] == pieces


def test_every_way_to_end_a_text_is_known(tmp_path: Path) -> None:
    text = text_of(tmp_path, eot_token_id=256)
    assert (text.bos_token, text.eos_token, text.eos_token_ids) == ("<|im_start|>", "<|im_end|>", (258, 256))
    assert text.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"model": "llama"}, UnsupportedModel, "tokenizer.ggml.model is 'llama'"),
        ({"pre": "deepseek-coder"}, UnsupportedModel, "'deepseek-coder'; this release knows gpt-2, llama-bpe, qwen2"),
        ({"pre": None}, UnsupportedModel, "tokenizer.ggml.pre is None"),
        ({"tokens": None}, CheckpointError, "tokenizer.ggml.tokens is not a list of strings"),
        ({"merges": [1, 2]}, CheckpointError, "tokenizer.ggml.merges is not a list of strings"),
        ({"merges": ["together"]}, CheckpointError, "holds 'together', not two tokens"),
        ({"merges": ["Q Q"]}, CheckpointError, "do not fit together"),
        ({"eos_token_id": None}, CheckpointError, "eos_token_id is missing"),
        ({"eos_token_id": 999}, CheckpointError, "eos_token_id is 999, the vocabulary has 261"),
    ],
)
def test_a_tokenizer_that_cannot_work_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        text_of(tmp_path, **changes)


def test_a_vocabulary_with_holes_fails_its_round_trip(tmp_path: Path) -> None:
    vocabulary = tokens()
    vocabulary[vocabulary.index("Ã")] = "unused"
    with pytest.raises(CheckpointError, match="its vocabulary is incomplete"):
        text_of(tmp_path, tokens=vocabulary)
