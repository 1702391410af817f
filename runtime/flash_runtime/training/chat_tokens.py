"""Chats as tokens, and which of them are to be learned: the assistant's, up to the token that ends its turn. No torch.

Legend: N chats, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import IntArray
from flash_runtime.text.chat import ChatRefused, ChatTemplate, Message
from flash_runtime.training.chats import Chat, ChatsRefused


@dataclass(frozen=True)
class Example:
    """One chat."""

    token_ids: IntArray  # [L]
    learned: NDArray[np.bool_]  # [L] tokens that the model is to say


@dataclass(frozen=True)
class Encoded:
    """All chats that fit."""

    examples: tuple[Example, ...]
    cut: int
    """Chats that were longer than the bound and lost their end."""
    left_out: int
    """Chats of which the bound left nothing to learn."""

    @property
    def learned_tokens(self) -> int:
        """Of all examples together."""
        return int(sum(example.learned.sum() for example in self.examples))


def encode_chats(
    chats: Sequence[Chat], template: ChatTemplate, *, end_tokens: Collection[int], max_tokens: int
) -> Encoded:
    """Raises ChatsRefused for chats that the template does not take, or where nothing is left to learn."""
    kept, cut, left_out = [], 0, 0
    for chat in chats:
        whole = _encoded(chat, template, frozenset(end_tokens))
        example = Example(whole.token_ids[:max_tokens], whole.learned[:max_tokens])
        cut += len(whole.token_ids) > max_tokens
        if example.learned[1:].any():
            kept.append(example)
        else:
            left_out += 1
    if not kept:
        raise ChatsRefused(f"no chat has an answer within its first {max_tokens} tokens; give more with --max-tokens")
    return Encoded(tuple(kept), cut, left_out)


def padded(examples: Sequence[Example]) -> tuple[IntArray, NDArray[np.bool_]]:
    """Token ids [N, L] padded with 0, and what is learned [N, L]."""
    length = max(len(example.token_ids) for example in examples)
    token_ids = np.zeros((len(examples), length), np.int32)
    learned = np.zeros((len(examples), length), np.bool_)
    for row, example in enumerate(examples):
        token_ids[row, : len(example.token_ids)] = example.token_ids
        learned[row, : len(example.learned)] = example.learned
    return token_ids, learned


def _encoded(chat: Chat, template: ChatTemplate, end_tokens: frozenset[int]) -> Example:
    messages = [Message(turn.role, turn.content) for turn in chat.turns]
    try:
        token_ids = template.encode(messages, answer_follows=False)
        learned = np.zeros(len(token_ids), np.bool_)
        for index, turn in enumerate(chat.turns):
            if turn.learned:
                before = template.encode(messages[:index])
                through = template.encode(messages[: index + 1], answer_follows=False)
                if token_ids[: len(before)] != before or token_ids[: len(through)] != through:
                    raise ChatsRefused(
                        f"line {chat.line}: messages.{index}: the model's chat template writes earlier messages "
                        "otherwise once more follow, so what was said when cannot be told; give chats of one answer"
                    )
                learned[len(before) : _end_of_turn(through, len(before), end_tokens)] = True
    except ChatRefused as refused:
        raise ChatsRefused(f"line {chat.line}: the model's chat template does not take it: {refused}") from refused
    return Example(np.array(token_ids, np.int32), learned)


def _end_of_turn(token_ids: Sequence[int], start: int, end_tokens: frozenset[int]) -> int:
    """Behind the last token that ends an answer; what a template writes after it nobody says."""
    for position in range(len(token_ids) - 1, start - 1, -1):
        if token_ids[position] in end_tokens:
            return position + 1
    return len(token_ids)
