"""A chat as one prompt, through the model's own Jinja template. Knows no requests and no limits.

Message contents are data: what reads like a control token in them stays text. The template may trim, split or slice a
content, so it cannot be wrapped; instead each control token in it gets a mark that no message and no template contains,
the template renders, and the tokenizer spells out what stands behind a mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Never

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flash_runtime.text.assets import TextError, TextHeader
from flash_runtime.text.tokenizer import Tokenizer

MARK_BORDER = "\ufdd0"  # a Unicode noncharacter, so real text hardly ever holds it


class ChatRefused(Exception):
    """The template does not take these messages, e.g. because roles must alternate. The message is the template's."""


class ChatTemplateBroken(Exception):
    """The template itself fails: the model's fault, not the caller's."""


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's own words for training; here only its body counts."""

    tags = {"generation"}  # noqa: RUF012 (the name and the type that Jinja expects)

    def parse(self, parser: Parser) -> list[Node]:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    content: str


class ChatTemplate:
    """Renders chats the way `transformers` does and encodes them."""

    def __init__(self, header: TextHeader, tokenizer: Tokenizer, *, now: Callable[[], datetime]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda format_: now().strftime(format_)
        self._source = header.chat_template
        self._tokenizer = tokenizer
        self._variables = {
            **{name: token for name, token in header.special_tokens.items() if isinstance(token, str)},
            "bos_token": header.bos_token or "",
            "eos_token": header.eos_token or "",
            "tools": None,
            "documents": None,
        }
        try:
            self._template = environment.from_string(header.chat_template)
        except TemplateSyntaxError as error:
            raise TextError(
                f"chat_template of the packed model, line {error.lineno}: {error.message}; "
                "pull a model with a working template (`flash-pull`)"
            ) from error

    @property
    def exists(self) -> bool:
        """Whether the model has a chat form at all."""
        return bool(self._source)

    def encode(self, messages: Sequence[Message], *, answer_follows: bool = True) -> list[int]:
        """Token ids of the chat, up to where the model's answer starts; of the messages alone where none follows.

        Raises ChatRefused for messages that the template rejects, ChatTemplateBroken when it fails otherwise.
        """
        mark = _unused_mark([self._source, *(message.content for message in messages)])
        turns = [
            {"role": message.role, "content": self._tokenizer.protect(message.content, mark=mark)}
            for message in messages
        ]
        return self._tokenizer.encode(self._render(turns, answer_follows), mark=mark)

    def _render(self, turns: list[dict[str, str]], answer_follows: bool) -> str:
        try:
            return self._template.render(self._variables, messages=turns, add_generation_prompt=answer_follows)
        except TemplateError as error:
            raise ChatTemplateBroken(f"chat template: {type(error).__name__}: {error.message}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ChatTemplateBroken(f"chat template: {type(error).__name__}") from error


def _unused_mark(texts: Iterable[str]) -> str:
    """A string that occurs in none of the texts."""
    joined = "\n".join(text for text in texts if MARK_BORDER in text)
    number = 0
    while (mark := f"{MARK_BORDER}{number}{MARK_BORDER}") in joined:
        number += 1
    return mark


def _refuse(message: str) -> Never:
    raise ChatRefused(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own filter escapes for HTML; a prompt is not HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
