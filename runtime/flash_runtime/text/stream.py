"""Text that grows: token ids in, text that will not change any more out. Knows no tokenizer and no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
MAX_WINDOW_TOKENS = 64
"""Tokens that stay unfinished for longer than this are not text at all; they are passed on as U+FFFD."""

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Turns one stream of token ids into text. Never gives out half a character.

    A stream that ends inside a character loses that character.

    Decoding starts at the last few tokens that were already given out, not at the new ones: decoders treat the
    beginning of a text specially (a leading space is dropped), so the new tokens need their predecessors.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._new = 0
        """Tokens at the end of the window that arrived since it was last cut."""
        self._given = 0
        """Characters of the window's text that were given out."""

    def push(self, ids: Sequence[int]) -> str:
        """Text that the ids complete."""
        self._window += ids
        self._new += len(ids)
        text = self._decode(self._window)
        # All of them, not one: byte-fallback decoders write a whole run of bytes as U+FFFD while its end is unfinished.
        complete = len(text.rstrip(REPLACEMENT))
        if self._new > MAX_WINDOW_TOKENS:
            complete = len(text)
        piece = text[self._given : complete]
        self._given = max(self._given, complete)
        if complete == len(text) and self._new:
            self._cut()
        return piece

    def _cut(self) -> None:
        """Keep the newest tokens as context for the next ones, unless they show nothing on their own."""
        newest = self._window[-self._new :]
        shown = self._decode(newest)
        if shown:
            self._window, self._given = newest, len(shown)
        else:
            del self._window[-self._new :]
            self._given = len(self._decode(self._window))
        self._new = 0


class StopScanner:
    """Cuts a stream of text at the first stop string, wherever the pieces are split.

    First means: completed first, so the answer does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._pending = ""
        self.stopped = False
        """A stop string was found: everything after it is dropped."""

    def push(self, text: str) -> str:
        """Text that is certainly before any stop string."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        pending = self._pending + text
        found = [(at + len(stop), at) for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._pending = ""
            return pending[: min(found)[1]]
        held = max(_overlap(pending, stop) for stop in self._stops)
        self._pending = pending[len(pending) - held :]
        return pending[: len(pending) - held]

    def finish(self) -> str:
        """What was held back and turned out to be ordinary text."""
        text, self._pending = self._pending, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
