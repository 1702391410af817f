"""Log-probabilities as OpenAI's two endpoints write them. Knows how tokens are spelled, not where they come from.

A token is a run of bytes and need not be whole characters: `bytes` says exactly which; in a token's text, what is no
character by itself reads U+FFFD.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flash_runtime.wire import TokenLogprobs

Spell = Callable[[int], bytes]
"""The bytes that a token id stands for."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Spelled:
    """A token and how likely it was."""

    bytes: bytes
    logprob: float

    @property
    def text(self) -> str:
        """Its bytes, read by themselves."""
        return self.bytes.decode(errors="replace")


@dataclass(frozen=True)
class Scored:
    """A token of the answer and the likeliest tokens at its place, best first."""

    token: Spelled
    top: tuple[Spelled, ...]
    text_offset: int
    """Characters of the answer that were complete before it."""


class Scorer:
    """Spells the tokens of one choice as they come."""

    def __init__(self, spell: Spell) -> None:
        self._spell = spell
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def push(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> tuple[Scored, ...]:
        """The next tokens, one entry of `logprobs` for each."""
        return tuple(self._scored(id_, one) for id_, one in zip(ids, logprobs, strict=True))

    def _scored(self, id_: int, logprobs: TokenLogprobs) -> Scored:
        token = Spelled(self._spell(id_), logprobs.logprob)
        top = tuple(Spelled(self._spell(other), value) for other, value in logprobs.top)
        scored = Scored(token, top, self._num_characters)
        self._num_characters += len(self._characters.decode(token.bytes))
        return scored


def chat_logprobs(scored: Iterable[Scored]) -> Json:
    """`logprobs` of a choice of /v1/chat/completions."""
    content = [{**_entry(one.token), "top_logprobs": [_entry(other) for other in one.top]} for one in scored]
    return {"content": content, "refusal": None}


def completion_logprobs(scored: Sequence[Scored]) -> Json:
    """`logprobs` of a choice of /v1/completions. Of tokens that read the same, the likeliest is shown."""
    return {
        "tokens": [one.token.text for one in scored],
        "token_logprobs": [one.token.logprob for one in scored],
        # The token itself is always among them, as OpenAI documents it. Later entries win, so the best come last.
        "top_logprobs": [
            {other.text: other.logprob for other in sorted((*one.top, one.token), key=lambda other: other.logprob)}
            for one in scored
        ],
        "text_offset": [one.text_offset for one in scored],
    }


def _entry(token: Spelled) -> Json:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}
