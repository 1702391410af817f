"""What travels between gateway and engine: token ids in, token ids out, over one decoupled tritonserver model.

Tensors of a request:  `input_ids` INT32 [n] and `request` BYTES [1], the JSON of a GenerateRequest.
Tensors of a response: `output_ids` INT32 [m] (m may be 0) and `event` BYTES [1], the JSON of a StreamEvent.
The last response of a stream carries the FINAL flag and a finish reason. One without token ids and without a reason is
a sign of life: the request waits, or its prompt is being computed. No text crosses this border.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

INPUT_IDS: Final = "input_ids"
REQUEST: Final = "request"
OUTPUT_IDS: Final = "output_ids"
EVENT: Final = "event"

MAX_LOGIT_BIASES: Final = 1024
MAX_TOP_LOGPROBS: Final = 20


class Failure(StrEnum):
    """What kind of error a stream ends with. It leads the error's text: over a decoupled stream of tritonserver only
    the text arrives. (2.51 can be asked for a gRPC status instead, by the header `triton_grpc_error`, and then dies of
    a segmentation fault now and then when it refuses a request.)
    """

    INVALID = "invalid"
    """The request can never run."""
    UNAVAILABLE = "unavailable"
    """Not now, or not here: another replica may take it."""
    INTERNAL = "internal"

    def text(self, message: str) -> str:
        """The error's text with its kind in front."""
        return f"{self}: {message}"

    @classmethod
    def read(cls, text: str) -> tuple[Failure, str]:
        """Kind and message of an error's text; what does not name its kind is tritonserver's own, hence internal."""
        kind, _, message = text.partition(": ")
        try:
            return cls(kind), message
        except ValueError:
            return cls.INTERNAL, text


class FinishReason(StrEnum):
    """Why a stream ended."""

    STOP = "stop"
    """A stop token was produced (it is not part of the output)."""
    LENGTH = "length"
    """`max_tokens` or the context window was reached."""
    CANCELLED = "cancelled"
    OVERLOADED = "overloaded"
    """Nothing was begun: every place in the engine is taken. Not an error, because a full engine is a living one."""


class GenerateRequest(BaseModel):
    """How to continue a prompt. Bounds are checked here, so the engine never sees a value it cannot use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(ge=1, le=1_048_576)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 = greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    """0 = all tokens."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Tokens less likely than this share of the likeliest one are left out."""
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    """Taken from a token's logit for each time it was generated."""
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    """Taken from the logit of a token that was generated at all."""
    repetition_penalty: float = Field(default=1.0, ge=0.1, le=10.0)
    """Divides positive logits, and multiplies negative ones, of tokens in the prompt or the output."""
    logit_bias: dict[int, Annotated[float, Field(ge=-100.0, le=100.0)]] = Field(
        default_factory=dict, max_length=MAX_LOGIT_BIASES
    )
    """Added to the logits of these tokens."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """Report each token's log-probability, and those of so many likeliest tokens; None = neither."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Random numbers are keyed by (seed, position): the same seed gives the same tokens on any replica."""
    stop_token_ids: tuple[int, ...] = Field(default=(), max_length=128)
    ignore_eos: bool = False
    """Benchmarks: go on until max_tokens."""
    vocabulary: str = Field(default="", max_length=64)
    """Which tokenizer the prompt's ids are of, by `vocabulary_of`; an engine of another one says that it is the wrong
    place. Empty = not said: only where models with different ones may serve side by side is it needed."""
    cache_salt: str = Field(default="", max_length=256)
    """Whose prompts this one may share cached blocks with: those of equal salt. Made by the gateway."""


def vocabulary_of(tokenizer_json: bytes) -> str:
    """A name for what token ids mean."""
    return hashlib.sha256(tokenizer_json).hexdigest()


class TokenLogprobs(NamedTuple):
    """How likely a token was in the model's own distribution: natural logarithms, before any change by the request."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place and their log-probabilities, best first."""


class StreamEvent(BaseModel):
    """What one response says besides its token ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were already in the cache (final event only)."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token of this response, when the request asked for them."""

    def encode(self) -> bytes:
        """Its JSON."""
        # Nearly every event of a stream says nothing, and is not worth a serialiser.
        return b"{}" if self == _SILENT else self.model_dump_json(exclude_defaults=True).encode()


_SILENT: Final = StreamEvent()
