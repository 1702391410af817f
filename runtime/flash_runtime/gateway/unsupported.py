"""Fields of OpenAI's API that are known here but not offered: refused with what to do, unless they ask for nothing.

A field set to null or to its neutral value passes, because clients send those by themselves. Nothing that matters is
ignored silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_runtime.gateway.errors import ApiError, invalid


@dataclass(frozen=True)
class NotOffered:
    """What a caller can do instead, and the values that ask for nothing."""

    remedy: str
    neutral: tuple[Any, ...] = ()


LEAVE_OUT = "leave it out"
_TOOLS = NotOffered("tool calls are not offered yet; describe the tools in a message and parse the answer", ([],))
_TEXT_ONLY = NotOffered("only text is offered; leave it out", (["text"],))

CHAT: Mapping[str, NotOffered] = {
    "tools": _TOOLS,
    "tool_choice": NotOffered(_TOOLS.remedy, ("none", "auto")),
    "parallel_tool_calls": NotOffered(_TOOLS.remedy, (True, False)),
    "functions": _TOOLS,
    "function_call": NotOffered(_TOOLS.remedy, ("none", "auto")),
    "response_format": NotOffered(
        "guaranteed output formats are not offered yet; ask for the format in a message", ({"type": "text"},)
    ),
    "modalities": _TEXT_ONLY,
    "audio": _TEXT_ONLY,
    "prediction": NotOffered("predicted outputs are not offered; leave it out"),
    "reasoning_effort": NotOffered("reasoning levels are not offered; leave it out", ("none",)),
    "verbosity": NotOffered("answer lengths are set by max_completion_tokens; leave it out", ("medium",)),
    "web_search_options": NotOffered("web search is not offered; leave it out"),
    "store": NotOffered("answers are never stored; leave it out", (False,)),
    "metadata": NotOffered("answers are never stored, so nothing can carry metadata; leave it out", ({},)),
    "service_tier": NotOffered("there is one tier; leave it out", ("auto", "default")),
}
COMPLETION: Mapping[str, NotOffered] = {
    "best_of": NotOffered("choosing the best of several is not offered; use n", (1,)),
    "echo": NotOffered("repeating the prompt is not offered; prepend it yourself", (False,)),
    "suffix": NotOffered("insertion is not offered; leave it out", ("",)),
}
MESSAGE: Mapping[str, NotOffered] = {
    "name": NotOffered("participants' names are not offered; put the name into the content"),
    "tool_calls": _TOOLS,
    "tool_call_id": _TOOLS,
    "function_call": _TOOLS,
    "refusal": NotOffered("put a refusal into the content"),
    "audio": _TEXT_ONLY,
    "annotations": NotOffered(LEAVE_OUT, ([],)),
}


def without_unsupported(body: Mapping[str, Any], fields: Mapping[str, NotOffered], *, at: str = "") -> dict[str, Any]:
    """`body` without fields that ask for nothing. Raises ApiError for one that asks for something."""
    kept: dict[str, Any] = {}
    for name, value in body.items():
        not_offered = fields.get(name)
        if not_offered is None:
            kept[name] = value
        elif value is not None and not any(_same(value, neutral) for neutral in not_offered.neutral):
            raise _refusal(f"{at}{name}", not_offered)
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and both or neither a boolean: `logprobs: true` must not pass for 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _refusal(param: str, not_offered: NotOffered) -> ApiError:
    return invalid(param, f"{param} cannot be used here: {not_offered.remedy}.", code="unsupported_parameter")
