"""Golden answers in a file, so that two endpoints can be compared, or one with itself of last week. Digests only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flash_operator.traffic.driver import Goldens
from flash_operator.traffic.stream import Question, TrafficError

_VERSION: Final = 1


def key(question: Question) -> str:
    """A name for the question that says nothing about it."""
    return hashlib.sha256(f"{question.max_tokens}\n{question.prompt}".encode()).hexdigest()


def load(path: Path, questions: Sequence[Question]) -> Goldens:
    """The answers to those of the questions that the file knows; none without a file. Raises TrafficError."""
    try:
        found = json.loads(path.read_text())
        if found["version"] != _VERSION:
            raise TrafficError(f"--golden ({path}) is of version {found['version']}, not {_VERSION}: make it anew")
        answers: dict[str, str] = found["answers"]
        return {question: answers[key(question)] for question in questions if key(question) in answers}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TrafficError(f"--golden ({path}) is no file of golden answers: {error}") from error


def save(path: Path, goldens: Goldens) -> None:
    """Write them for a later run. Raises TrafficError."""
    answers = {key(question): digest for question, digest in goldens.items()}
    try:
        path.write_text(json.dumps({"version": _VERSION, "answers": dict(sorted(answers.items()))}, indent=1) + "\n")
    except OSError as error:
        raise TrafficError(f"--golden ({path}) cannot be written: {error.strerror}") from error
