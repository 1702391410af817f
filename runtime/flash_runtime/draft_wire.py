"""What travels between an engine and a draft: what sequences have become, and guesses at what follows them.

One gRPC stream for each pair. Its first request carries `hello`, the JSON of a Hello, and is answered with `welcome`,
the JSON of a Welcome; it stays open as long as the stream, and guesses made ahead come as responses to it. Every later
request carries `news` INT32 [n] and is answered once with `guesses` INT32 [m]. The request's id names the stream. Only
ids that are new travel, and no text.

news    = number of entries, then of each: key, start, wanted, number of ids, ids
          The sequence had `start` ids and now has these too; so many guesses are wanted, FORGET = it is over.
guesses = number of entries, then of each: key, length, number of ids or a Refusal, ids
          What follows the sequence of so many ids.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from enum import IntEnum
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict

PROTOCOL: Final = 1
HELLO: Final = "hello"
WELCOME: Final = "welcome"
NEWS: Final = "news"
GUESSES: Final = "guesses"
FORGET: Final = -1
_INT32_MAX: Final = 2**31 - 1


class DraftWireError(ValueError):
    """A message that is not of this protocol."""


class Hello(BaseModel):
    """What an engine says first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    protocol: int
    tokenizer: str
    """sha256 of the tokenizer's JSON."""
    revision: str
    """Of the deployment's template."""


class Welcome(Hello):
    """What the draft says of itself. One that refuses ends the stream."""

    refused: str = ""
    """Why it will not propose: `protocol`, `tokenizer`, `revision`, `overloaded` or `ending`; empty = it will."""


class Refusal(IntEnum):
    """Instead of a number of ids."""

    UNKNOWN = -1
    """The draft does not know the sequence as far as `start`: tell it from its beginning."""
    FULL = -2
    """It keeps as many sequences as it can."""
    BEHIND = -3
    """It still reads the sequence."""


class News(NamedTuple):
    """Of one sequence."""

    key: int
    start: int
    wanted: int
    token_ids: Ids[int]


class Guesses(NamedTuple):
    """Of one sequence."""

    key: int
    length: int
    token_ids: Ids[int]
    refusal: Refusal | None = None


def encode_news(entries: Ids[News]) -> bytes:
    """The content of the tensor."""
    flat = array("i", [len(entries)])
    for key, start, wanted, token_ids in entries:
        flat.extend((key & _INT32_MAX, start, wanted, len(token_ids)))
        flat.extend(token_ids)
    return flat.tobytes()


def decode_news(flat: Ids[int]) -> list[News]:
    """Raises DraftWireError."""
    entries = []
    for (key, start, wanted), count, token_ids in _entries(flat, 3):
        if start < 0 or wanted < FORGET or count < 0:
            raise DraftWireError(
                f"start ({start}) and the number of ids ({count}) must be at least 0, wanted ({wanted}) {FORGET}"
            )
        entries.append(News(key, start, wanted, token_ids))
    return entries


def encode_guesses(entries: Iterable[Guesses]) -> array[int]:
    """The numbers of the tensor."""
    flat = array("i", [0])
    for key, length, token_ids, refusal in entries:
        flat[0] += 1
        flat.extend((key, length, len(token_ids) if refusal is None else refusal))
        if refusal is None:
            flat.extend(token_ids)
    return flat


def decode_guesses(content: bytes) -> list[Guesses]:
    """Raises DraftWireError."""
    flat = array("i")
    try:
        flat.frombytes(content)
        return [
            Guesses(key, length, token_ids, Refusal(count) if count < 0 else None)
            for (key, length), count, token_ids in _entries(flat, 2)
        ]
    except DraftWireError:
        raise
    except ValueError as error:
        raise DraftWireError(str(error)) from error


def _entries(flat: Ids[int], num_fields: int) -> Iterator[tuple[Ids[int], int, Ids[int]]]:
    """Of each entry the fields, the number after them, and so many ids where it is one."""
    if len(flat) < 1:
        raise DraftWireError("a message must begin with its number of entries")
    at = 1
    for _ in range(flat[0]):
        begin = at + num_fields + 1
        if begin > len(flat):
            raise DraftWireError(f"a message of {len(flat)} numbers must hold {flat[0]} entries")
        count = flat[begin - 1]
        fields, at = flat[at : begin - 1], begin + max(0, count)
        if at > len(flat):
            raise DraftWireError(f"a message of {len(flat)} numbers must hold {flat[0]} entries")
        yield fields, count, flat[begin:at]
