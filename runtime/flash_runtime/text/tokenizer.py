"""Text to token ids and back, around a `tokenizers` model. Knows no chat and no streams."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer as HfTokenizer

from flash_runtime.text.assets import TextAssets, TextError


def _byte_level() -> dict[str, bytes]:
    """The printable characters that byte-level vocabularies write bytes with, as GPT-2's tokenizer defined them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(256 + index): bytes([byte]) for index, byte in enumerate(others)}


_BYTE_LEVEL: Final = _byte_level()
_FALLBACK_BYTE: Final = re.compile("<0x([0-9A-F]{2})>")


class Tokenizer:
    """One model's tokenizer. Safe to share between threads: nothing but caches changes after construction.

    A *control token* is one that steers the model rather than spells text (`<|im_end|>`, `</s>`): every added token
    that is marked special or ends an answer.
    """

    def __init__(self, assets: TextAssets) -> None:
        header = assets.header
        self._json = assets.tokenizer_json
        self._hf = _load(self._json)
        added = self._hf.get_added_tokens_decoder()
        self._control = {
            token.content: (id_, token)
            for id_, token in added.items()
            if token.content and (token.special or id_ in header.eos_token_ids)
        }
        self.vocab_size: int = max(self._hf.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)
        bos_id = None if header.bos_token is None else self._hf.token_to_id(header.bos_token)
        if header.add_bos and bos_id is None:
            raise TextError(
                f"header text.bos_token ({header.bos_token}) must be a token of tokenizer.json, because text.add_bos "
                "is true; pull the model again (`flash-pull`)"
            )
        self._raw_prefix = [bos_id] if header.add_bos and bos_id is not None else []

    def encode(self, text: str, *, mark: str = "") -> list[int]:
        """Token ids of `text`, in which control tokens count as such.

        A control token that stands behind a `mark` (see `protect`) is spelled out as text; the marks vanish.
        """
        if not mark or mark not in text:
            ids: list[int] = self._hf.encode(text, add_special_tokens=False).ids
            return ids
        ids = []
        start = 0
        for match in self._control_pattern.finditer(text):
            if text.endswith(mark, 0, match.start()):
                continue
            id_, token = self._control[match[0]]
            before = text[start : match.start()].replace(mark, "")
            ids += self._encode_plain(before.rstrip() if token.lstrip else before)
            ids.append(id_)
            start = match.end()
            if token.rstrip:
                start = len(text) - len(text[start:].lstrip())
        return ids + self._encode_plain(text[start:].replace(mark, ""))

    def encode_raw(self, text: str) -> list[int]:
        """A prompt outside any chat: as written, after the begin-of-text token where the model wants one."""
        return [*self._raw_prefix, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out; incomplete UTF-8 becomes U+FFFD."""
        text: str = self._hf.decode(ids, skip_special_tokens=True)
        return text

    def spell(self, id_: int) -> bytes:
        """The bytes that a token stands for inside a text, control tokens as they are written."""
        token = self._hf.id_to_token(id_)
        if token is None:
            return b""
        if id_ in self._added_ids:
            return bytes(token, "utf-8")
        if "ByteLevel" in self._decoders:
            return b"".join(_BYTE_LEVEL.get(character) or character.encode() for character in token)
        if "ByteFallback" in self._decoders and (byte := _FALLBACK_BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return (token.replace("\u2581", " ") if self._decoders & {"Replace", "Metaspace"} else token).encode()

    def protect(self, text: str, *, mark: str) -> str:
        """`text` with `mark` before everything in it that reads like a control token, overlaps included."""
        return self._control_start.sub(lambda _: mark, text)

    @functools.cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @functools.cached_property
    def _control_start(self) -> re.Pattern[str]:
        return re.compile(f"(?={self._control_pattern.pattern})")

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return ids

    @functools.cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._hf.get_added_tokens_decoder())

    @functools.cached_property
    def _decoders(self) -> frozenset[str]:
        """The kinds of decoders that turn this vocabulary's spelling into text."""
        decoder = json.loads(self._json).get("decoder") or {}
        return frozenset(one["type"] for one in decoder.get("decoders", [decoder]) if "type" in one)

    @functools.cached_property
    def _plain(self) -> HfTokenizer:
        """A twin that spells control tokens out. Made when first needed: most chats hold none in their text."""
        document = json.loads(self._json)
        for token in document.get("added_tokens", []):
            token["special"] = token["special"] or token["content"] in self._control
        twin = HfTokenizer.from_str(json.dumps(document))
        twin.encode_special_tokens = True
        return twin


def _load(tokenizer_json: bytes) -> HfTokenizer:
    try:
        return HfTokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises nothing more precise
        raise TextError(
            f"tokenizer.json of the packed model cannot be read ({error}); pull the model again (`flash-pull`)"
        ) from error
