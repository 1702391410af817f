"""The text of a manifest file, or why it cannot be had. Knows files, not what is written in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from flash_api.documents import TEXT_MAX_CHARACTERS

_BYTES_MAX: Final = 4 * TEXT_MAX_CHARACTERS + 1
"""Enough to see that a text is too long, whatever its characters: a device has no end."""


class UnreadableError(Exception):
    """The message names the file and the reason."""


def label(path: Path) -> str:
    """What to call the file; `-` is standard input."""
    return "standard input" if str(path) == "-" else str(path)


def manifest_text(path: Path) -> str:
    """The beginning of the file, as far as a manifest may go. Raises UnreadableError."""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(_BYTES_MAX)
        else:
            with path.open("rb") as file:
                content = file.read(_BYTES_MAX)
        return content.decode("utf-8")
    except OSError as error:
        raise UnreadableError(f"{label(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        if len(content) == _BYTES_MAX and error.end >= len(content) - 3:
            return content.decode("utf-8", errors="ignore")  # cut within a character; too long in any case
        raise UnreadableError(f"{label(path)} is not UTF-8 text (byte {error.start}); is it a manifest?") from error
