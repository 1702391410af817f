"""The text that weights are rounded for: the one this package carries, or a file. Knows no weights.

It is not the text that `flash eval` measures on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from flash_runtime.engine.batch import IntArray
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import RequestError
from flash_runtime.model.evaluate import windows_of
from flash_runtime.model.hf_text import load_tokenizer

BUILT_IN: Final = Path(__file__).with_name("calibration.txt")
MAX_TOKENS: Final = 8192
_WINDOW_TOKENS: Final = 512
_FEWEST_TOKENS: Final = 256


@dataclass(frozen=True)
class Calibration:
    """A text to round weights for."""

    text: str
    name: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def windows(self, checkpoint: Checkpoint) -> Sequence[IntArray]:
        """Token ids of windows spread over the text; raises RequestError for one too short to say anything."""
        tokenizer = load_tokenizer(checkpoint.text().tokenizer_json, where=f"{checkpoint.path}: tokenizer.json")
        token_ids = np.array(tokenizer.encode(self.text, add_special_tokens=False).ids, dtype=np.int32)
        if len(token_ids) < _FEWEST_TOKENS:
            raise RequestError(
                f"calibration text {self.name}: {len(token_ids)} tokens, at least {_FEWEST_TOKENS} are needed; give a "
                "longer text"
            )
        window_tokens = min(_WINDOW_TOKENS, checkpoint.config.max_context_tokens)
        return windows_of(token_ids, max_tokens=MAX_TOKENS, window_tokens=window_tokens)


def calibration(file: Path | None) -> Calibration:
    """The text in the file, or the built-in one; raises RequestError for what is no readable text."""
    path = file or BUILT_IN
    try:
        return Calibration(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise RequestError(f"calibration text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"calibration text {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
