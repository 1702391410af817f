"""The tokenizer inside a GGUF file, written as the tokenizer.json of the Hugging Face `tokenizers` library.

Byte-level BPE only (`tokenizer.ggml.model` = gpt2), with the pre-tokenizers named below. Knows metadata, no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from flash_runtime.model.checkpoint import TextAssets
from flash_runtime.model.errors import CheckpointError, UnsupportedModel

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PROBE: Final = "Round trip: naïve café 東京 🙂, 3 + 14 = 17.\n\tdef f(x):  return x\n"


def text_assets(metadata: Mapping[str, Any], *, where: str) -> TextAssets:
    """Build and try the tokenizer; raises CheckpointError or UnsupportedModel naming `where`."""
    reader = _TokenizerMetadata(metadata, where)
    tokens = reader.strings("tokens")
    tokenizer = _byte_level_bpe(reader, tokens)
    eos_id = reader.token_id("eos_token_id", len(tokens))
    if eos_id is None:
        raise CheckpointError(f"{where}: tokenizer.ggml.eos_token_id is missing; generation could not end")
    other_ends = (reader.token_id(key, len(tokens)) for key in ("eot_token_id", "eom_token_id"))
    bos_id = reader.token_id("bos_token_id", len(tokens))
    template = metadata.get("tokenizer.chat_template")
    return TextAssets(
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=template if isinstance(template, str) else None,
        bos_token=None if bos_id is None else tokens[bos_id],
        eos_token=tokens[eos_id],
        eos_token_ids=tuple(dict.fromkeys([eos_id, *(id_ for id_ in other_ends if id_ is not None)])),
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        special_tokens={tokens[id_]: id_ for id_ in reader.control_ids()},
    )


def _byte_level_bpe(reader: _TokenizerMetadata, tokens: list[str]) -> Tokenizer:
    kind = reader.value("model")
    if kind != "gpt2":
        raise UnsupportedModel(f"{reader.where}: tokenizer.ggml.model is {kind!r}; this release reads 'gpt2' (BPE)")
    name = reader.value("pre")
    if name not in _PRE_TOKENIZERS:
        known = ", ".join(sorted(_PRE_TOKENIZERS))
        raise UnsupportedModel(f"{reader.where}: tokenizer.ggml.pre is {name!r}; this release knows {known}")
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    merges = [reader.pair(merge) for merge in reader.strings("merges")]
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe")
    except Exception as error:  # the library raises bare Exception for any inconsistency
        raise CheckpointError(f"{reader.where}: vocabulary and merges do not fit together ({error})") from error
    tokenizer = Tokenizer(model)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[name])
    tokenizer.decoder = decoders.ByteLevel()
    added = {_CONTROL: reader.control_ids(), _USER_DEFINED: reader.ids_of_type(_USER_DEFINED)}
    tokenizer.add_special_tokens([AddedToken(tokens[id_], special=True, normalized=False) for id_ in added[_CONTROL]])
    tokenizer.add_tokens([AddedToken(tokens[id_], normalized=False) for id_ in added[_USER_DEFINED]])
    _try_it(tokenizer, [tokens[id_] for ids in added.values() for id_ in ids], where=reader.where)
    return tokenizer


def _try_it(tokenizer: Tokenizer, whole: list[str], *, where: str) -> None:
    """Text survives the way there and back, and every added token is one token."""
    back = tokenizer.decode(tokenizer.encode(_PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if back != _PROBE:
        raise CheckpointError(f"{where}: the tokenizer turns {_PROBE!r} into {back!r}; its vocabulary is incomplete")
    for text in whole:
        if len(tokenizer.encode(text, add_special_tokens=False).ids) != 1:
            raise CheckpointError(f"{where}: the tokenizer splits its own token {text!r}")


class _TokenizerMetadata:
    """The `tokenizer.ggml.*` keys, typed."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self._metadata = metadata
        self.where = where

    def value(self, key: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}")

    def strings(self, key: str) -> list[str]:
        values = self.value(key)
        if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
            raise CheckpointError(f"{self.where}: tokenizer.ggml.{key} is not a list of strings")
        return values

    def pair(self, merge: str) -> tuple[str, str]:
        left, separator, right = merge.partition(" ")
        if not separator:
            raise CheckpointError(f"{self.where}: tokenizer.ggml.merges holds {merge!r}, not two tokens")
        return left, right

    def token_id(self, key: str, vocabulary: int) -> int | None:
        id_ = self.value(key)
        if id_ is None:
            return None
        if not isinstance(id_, int) or not 0 <= id_ < vocabulary:
            raise CheckpointError(f"{self.where}: tokenizer.ggml.{key} is {id_!r}, the vocabulary has {vocabulary}")
        return id_

    def control_ids(self) -> list[int]:
        return self.ids_of_type(_CONTROL)

    def ids_of_type(self, kind: int) -> list[int]:
        types = self.value("token_type") or []
        return [id_ for id_, type_ in enumerate(types) if type_ == kind]


def _by_pattern(numbers: str) -> list[pre_tokenizers.PreTokenizer]:
    """Split by a regular expression that differs between models in how long a run of digits may be."""
    pattern = f"{_CONTRACTIONS}|{numbers}|{_REST}"
    return [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


_PRE_TOKENIZERS: Final[Mapping[str, list[pre_tokenizers.PreTokenizer]]] = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": _by_pattern(r"\p{N}{1,3}"),
    "qwen2": _by_pattern(r"\p{N}"),
}
