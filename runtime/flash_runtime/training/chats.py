"""Chats to tune a model on: JSON lines in the form that OpenAI's fine-tuning takes. Knows no tokens and no models.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

`"weight": 0` in an assistant's message leaves that answer out of what is learned. Errors: `ChatsRefused`, which names
the line, the field, the rule and what to do about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flash_runtime.model.errors import RequestError

ROLES: Final = ("system", "user", "assistant")
LEAST_CHATS: Final = 500
"""With fewer, a model learns the examples by heart and forgets what it could."""
_SHOWN: Final = 5
_ELSEWHERE: Final = {"tools": "tool calls", "functions": "function calls", "parallel_tool_calls": "tool calls"}


class ChatsRefused(RequestError):
    """A file of chats that cannot be learned from."""


class _Wrong(Exception):
    """One line's fault."""


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: str
    content: str
    learned: bool
    """Whether the model is to say this."""


@dataclass(frozen=True)
class Chat:
    """One example."""

    line: int
    turns: tuple[Turn, ...]


def read_chats(path: Path) -> list[Chat]:
    """Every chat of the file; raises ChatsRefused with the first few faults of all its lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatsRefused(f"{path}: {error.strerror}; give a file of JSON lines") from error
    except UnicodeDecodeError as error:
        raise ChatsRefused(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    chats: list[Chat] = []
    faults: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):  # a JSON string may hold other line separators
        if not line.strip():
            continue
        try:
            chats.append(Chat(number, _turns(line)))
        except _Wrong as wrong:
            faults.append(f"line {number}: {wrong}")
    if faults:
        more = f"\n… and {len(faults) - _SHOWN:,} more lines" if len(faults) > _SHOWN else ""
        raise ChatsRefused(f"{path}: {len(faults):,} lines cannot be used\n" + "\n".join(faults[:_SHOWN]) + more)
    if not chats:
        raise ChatsRefused(f"{path}: holds no chat; write one JSON object with `messages` in each line")
    return chats


def check_enough(chats: Sequence[Chat], *, forced: bool) -> None:
    """Raises ChatsRefused for too few, unless forced."""
    if len(chats) < LEAST_CHATS and not forced:
        raise ChatsRefused(
            f"{len(chats):,} chats, at least {LEAST_CHATS} are asked for: with fewer a model learns them by heart and "
            "forgets what it could; add more, or tune all the same with --force"
        )


def _turns(line: str) -> tuple[Turn, ...]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise _Wrong(f"not JSON ({error}); write each chat as one JSON object in one line") from error
    if not isinstance(document, dict):
        raise _Wrong(f"a {_kind(document)}, an object with `messages` is expected")
    for field, what in _ELSEWHERE.items():
        if document.get(field):
            raise _Wrong(f"{field}: {what} are not learned here; leave the chat out, or its {field}")
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        found = "missing" if "messages" not in document else f"{_kind(messages)}"
        raise _Wrong(f"messages: {found}, a list of at least a question and its answer is expected")
    turns = tuple(_turn(index, message) for index, message in enumerate(messages))
    if turns[-1].role != "assistant":
        raise _Wrong(f"messages.{len(turns) - 1}.role: the last is {turns[-1].role}, a chat ends with the assistant")
    if not any(turn.learned for turn in turns):
        raise _Wrong("messages: every assistant message has weight 0, so nothing is to be learned; leave the chat out")
    return turns


def _turn(index: int, message: Any) -> Turn:
    where = f"messages.{index}"
    if not isinstance(message, dict):
        raise _Wrong(f"{where}: a {_kind(message)}, an object with role and content is expected")
    role, content, weight = message.get("role"), message.get("content"), message.get("weight", 1)
    if role not in ROLES:
        raise _Wrong(f"{where}.role: {role!r:.40}, one of {', '.join(ROLES)} is expected")
    if role == "system" and index > 0:
        raise _Wrong(f"{where}.role: a system message stands first or not at all; move it")
    if message.get("tool_calls") or message.get("function_call"):
        raise _Wrong(f"{where}: tool calls are not learned here; leave the chat out")
    if not isinstance(content, str) or not content.strip():
        found = (
            "missing" if "content" not in message else "empty" if isinstance(content, str) else f"a {_kind(content)}"
        )
        raise _Wrong(f"{where}.content: {found}, a text is expected")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise _Wrong(f"{where}.weight: {weight!r:.40}, 0 or 1 is expected")
    if "weight" in message and role != "assistant":
        raise _Wrong(f"{where}.weight: only an assistant's message has one; take it out")
    return Turn(role, content, role == "assistant" and weight == 1)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
