"""What clients may send, parsed once: the bodies of chat and text completions. Knows no model and no limits.

Unknown fields are refused, values are not coerced ("3" is no number), and a refusal names field, value and rule.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from flash_runtime.gateway.errors import ApiError, invalid
from flash_runtime.gateway.unsupported import CHAT, COMPLETION, MESSAGE, without_unsupported
from flash_runtime.wire import MAX_LOGIT_BIASES, MAX_TOP_LOGPROBS

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
MAX_STOP_TOKEN_IDS = 32
MAX_PROMPTS = 64
MAX_BIAS = 100
MAX_ID_DIGITS = 10
LONGEST_SHOWN_VALUE = 60

TokenIds = list[int]


def _refuse(rule: str) -> PydanticCustomError:
    return PydanticCustomError("flashplane_rule", "{rule}", {"rule": rule})


def _text_of(content: Any) -> Any:
    """Content as one string: text parts are joined."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _refuse("must be a string or a list of {type: text, text: …} parts")
        if part["type"] != "text":
            raise _refuse(f"has a part of type {part['type'][:LONGEST_SHOWN_VALUE]}; only text parts are offered")
        if not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise _refuse("has a text part that is not exactly {type: text, text: a string}")
        texts.append(part["text"])
    return "".join(texts)


def _stops_of(stop: Any) -> Any:
    """One stop string, several, or none, as a list."""
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise _refuse(f"must be a string or a list of up to {MAX_STOPS} strings")
    if len(stops) > MAX_STOPS:
        raise _refuse(f"must hold at most {MAX_STOPS} strings, not {len(stops)}")
    if not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in stops):
        raise _refuse(f"must hold strings of 1 to {MAX_STOP_CHARACTERS} characters")
    return stops


def _biases_of(biases: Any) -> Any:
    """Biases by token id; JSON's keys are strings."""
    if biases is None:
        return {}
    if not isinstance(biases, dict):
        raise _refuse('must be an object of token ids and biases, like {"50": -100}')
    if len(biases) > MAX_LOGIT_BIASES:
        raise _refuse(f"must hold at most {MAX_LOGIT_BIASES} token ids, not {len(biases)}")
    by_id: dict[int, float] = {}
    for key, bias in biases.items():
        shown = str(key)[:LONGEST_SHOWN_VALUE]
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= MAX_ID_DIGITS):
            raise _refuse(f'has the key "{shown}"; keys must be token ids, like "50"')
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise _refuse(f'must give "{shown}" a number from -{MAX_BIAS} to {MAX_BIAS}')
        by_id[int(key)] = float(bias)
    return by_id


def _prompts_of(prompt: Any) -> Any:
    """A string, token ids, or a list of either, as a list of prompts."""
    if isinstance(prompt, str) or _is_token_ids(prompt):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(one, str) or _is_token_ids(one) for one in prompt):
        if len(prompt) > MAX_PROMPTS:
            raise _refuse(f"must hold at most {MAX_PROMPTS} prompts, not {len(prompt)}; send them in several requests")
        return prompt
    raise _refuse("must be a string, a list of token ids, or a list of either, and not empty")


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id_) is int for id_ in value)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(_Body):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class SamplingFields(_Body):
    """What chat and text completions have in common."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Extension: choose among the k likeliest tokens; 0 = all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Extension: leave out tokens less likely than this share of the likeliest one."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10)
    """Extension: makes tokens of the prompt and the answer less likely (above 1) or more likely (below 1)."""
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases_of)] = {}
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[str], BeforeValidator(_stops_of)] = []
    stop_token_ids: list[int] | None = Field(default=None, max_length=MAX_STOP_TOKEN_IDS)
    """Extension: tokens that end the answer; they are not part of it."""
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    """Share cached prompts only with requests of this tenant that carry the same one (as in vLLM)."""
    ignore_eos: bool | None = None
    """Extension for benchmarks: go on until max_tokens."""
    user: str | None = None
    """Accepted, not used: nothing is stored about users."""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatMessage(_Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)]


class ChatRequest(SamplingFields):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    safety_identifier: str | None = None
    """Accepted, not used: nothing is stored about users."""
    prompt_cache_key: str | None = None
    """Accepted, not used: equal beginnings of a tenant's prompts are always shared."""

    @property
    def output_tokens(self) -> int | None:
        """Longest answer asked for, under either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_top_logprobs(self) -> int | None:
        """How many likeliest tokens to report at each place; None = no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(SamplingFields):
    """Body of POST /v1/completions."""

    prompt: Annotated[list[str | TokenIds], BeforeValidator(_prompts_of)]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @property
    def num_top_logprobs(self) -> int | None:
        """The same as for a chat, under this endpoint's name for it."""
        return self.logprobs


Parsed = TypeVar("Parsed", bound=SamplingFields)


def parse_chat(body: Any) -> ChatRequest:
    """Raises ApiError."""
    fields = without_unsupported(_object(body), CHAT)
    messages = fields.get("messages")
    if isinstance(messages, list):
        fields["messages"] = [
            without_unsupported(message, MESSAGE, at=f"messages.{index}.") if isinstance(message, dict) else message
            for index, message in enumerate(messages)
        ]
    request = _parse(ChatRequest, fields)
    if None not in (request.max_tokens, request.max_completion_tokens):
        raise invalid("max_tokens", "max_tokens and max_completion_tokens mean the same; send only one of them")
    if request.top_logprobs and not request.logprobs:
        raise invalid(
            "top_logprobs",
            f"top_logprobs ({request.top_logprobs}) may only be sent with logprobs: true; add it or leave this out",
        )
    return request


def parse_completion(body: Any) -> CompletionRequest:
    """Raises ApiError."""
    return _parse(CompletionRequest, without_unsupported(_object(body), COMPLETION))


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise invalid(None, "The body must be a JSON object.", code="invalid_type")
    return body


def _parse(kind: type[Parsed], fields: dict[str, Any]) -> Parsed:
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        raise _from_pydantic(error.errors(include_url=False)[0]) from None
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options may only be sent with stream: true; leave it out")
    return request


def _from_pydantic(error: ErrorDetails) -> ApiError:
    param = ".".join(str(part) for part in error["loc"]) or None
    match error["type"]:
        case "missing":
            return invalid(param, f"{param} is required; add it", code="missing_required_parameter")
        case "extra_forbidden":
            return invalid(param, f"{param} is not a known parameter; remove it", code="unknown_parameter")
    rule = error["msg"].replace("Input should", "must").replace("List should", "must")
    code = "invalid_type" if error["type"].endswith("_type") else "invalid_value"
    return invalid(param, f"{param}{_shown(error['input'])} {rule}", code=code)


def _shown(value: Any) -> str:
    """The value in parentheses, where it is short enough to help."""
    if isinstance(value, bool) or value is None:
        return f" ({str(value).lower().replace('none', 'null')})"
    if isinstance(value, int | float | str) and len(text := str(value)) <= LONGEST_SHOWN_VALUE:
        return f" ({text})"
    return ""
