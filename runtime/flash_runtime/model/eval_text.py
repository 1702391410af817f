"""Text that is always at hand to measure a model on: the language reference that every Python carries, or files.

It comes as two samples, prose and chat, because a format may cost them differently: chat holds the control tokens that
the model's template writes. Knows the text side of a packed model; knows no weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from flash_runtime.engine.batch import IntArray
from flash_runtime.model.errors import RequestError
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatRefused, ChatTemplate, ChatTemplateBroken, Message
from flash_runtime.text.tokenizer import Tokenizer

_TOPICS: Final = "pydoc_data.topics"
"""What `help("assignment")` prints; part of the standard library."""
_FEWEST_TOKENS: Final = 64
_NO_DATE: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Templates may write today's date; a measurement must not change with it."""


@dataclass(frozen=True)
class Sample:
    """One text as token ids."""

    name: str
    token_ids: IntArray


def built_in_samples(assets: TextAssets) -> list[Sample]:
    """The language reference as prose, and as a chat where the model has a chat form."""
    topics = _topics()
    tokenizer = Tokenizer(assets)
    samples = [_sample("prose", tokenizer.encode("\n\n".join(topics.values())))]
    template = ChatTemplate(assets.header, tokenizer, now=lambda: _NO_DATE)
    if template.exists:
        samples.append(_sample("chat", _chat(topics, template, tokenizer, assets)))
    return samples


def file_samples(assets: TextAssets, files: Sequence[Path]) -> list[Sample]:
    """Each file as one sample, named after it."""
    tokenizer = Tokenizer(assets)
    samples = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RequestError(f"--text {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RequestError(f"--text {file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
        sample = _sample(file.name, tokenizer.encode(text))
        if len(sample.token_ids) < _FEWEST_TOKENS:
            found = len(sample.token_ids)
            raise RequestError(
                f"--text {file}: {found} tokens, at least {_FEWEST_TOKENS} are needed; give a longer text"
            )
        samples.append(sample)
    return samples


def prompt_sample(assets: TextAssets, prompt: str) -> Sample:
    """One prompt as it is, outside any chat. Raises RequestError for one too short to say anything."""
    sample = _sample("prompt", Tokenizer(assets).encode_raw(prompt))
    if len(sample.token_ids) < 2:
        raise RequestError(f"--prompt ({prompt!r}): {len(sample.token_ids)} tokens, at least 2 are needed")
    return sample


def _topics() -> Mapping[str, str]:
    try:
        topics: Mapping[str, str] = importlib.import_module(_TOPICS).topics
    except ImportError as error:
        raise RequestError(f"this Python has no {_TOPICS}; give a text of your own with --text FILE") from error
    return dict(sorted(topics.items()))


def _chat(topics: Mapping[str, str], template: ChatTemplate, tokenizer: Tokenizer, assets: TextAssets) -> list[int]:
    """Short conversations: a question about each topic and the beginning of its text as the answer."""
    token_ids: list[int] = []
    for topic, text in topics.items():
        answer = "\n\n".join(text.split("\n\n")[1:5])
        try:
            question = template.encode([Message("user", f"What does Python's reference say about {topic}?")])
        except (ChatRefused, ChatTemplateBroken) as error:
            raise RequestError(f"the model's chat template refuses a plain question: {error}; use --text") from error
        token_ids += [*question, *tokenizer.encode(answer), assets.header.eos_token_ids[0]]
    return token_ids


def _sample(name: str, token_ids: Sequence[int]) -> Sample:
    return Sample(name, np.array(token_ids, dtype=np.int32))
