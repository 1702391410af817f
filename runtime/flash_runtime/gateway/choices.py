"""What a request asks the engines to do: one generation per choice, within the limits. Pure: no engine, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash_api.config.gateway import GatewayLimits
from flash_runtime.gateway.auth import cache_salt
from flash_runtime.gateway.errors import ApiError, invalid
from flash_runtime.gateway.requests import ChatRequest, CompletionRequest
from flash_runtime.gateway.tracks import session_of
from flash_runtime.wire import GenerateRequest

SEEDS = 2**63
LEGACY_DEFAULT_OUTPUT_TOKENS = 16
"""What /v1/completions generates when max_tokens is left out, as OpenAI documents it."""


@dataclass(frozen=True)
class ModelFacts:
    """What the rules need to know of the served model."""

    vocab_size: int
    stop_token_ids: tuple[int, ...]
    max_context_tokens: int | None
    """Prompt plus answer; None = the engine alone knows."""
    vocabulary: str = ""
    """What to tell engines of the tokenizer; empty = all of them have the same one."""


@dataclass(frozen=True)
class Choice:
    """One generation."""

    index: int
    prompt: int
    """Which of the request's prompts it continues."""
    prompt_ids: tuple[int, ...]
    request: GenerateRequest
    stops: tuple[str, ...]
    session: str = ""
    """What the requests of one conversation have in common."""


def chat_choices(
    request: ChatRequest,
    prompt_ids: Sequence[int],
    *,
    model: ModelFacts,
    limits: GatewayLimits,
    tenant: str,
    draw_seed: Callable[[], int],
) -> tuple[Choice, ...]:
    """The choices of a chat. Raises ApiError."""
    field = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    wanted = _checked_output(request.output_tokens, limits, field=field)
    num_tokens = _output_tokens(
        len(prompt_ids), wanted, default=limits.max_output_tokens, model=model, param="messages"
    )
    return _spread(
        request, [(tuple(prompt_ids), num_tokens)], model=model, limits=limits, tenant=tenant, draw_seed=draw_seed
    )


def completion_choices(
    request: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    *,
    model: ModelFacts,
    limits: GatewayLimits,
    tenant: str,
    draw_seed: Callable[[], int],
) -> tuple[Choice, ...]:
    """The choices of a text completion, in the order prompt 0 choice 0, prompt 0 choice 1, … Raises ApiError."""
    wanted = _checked_output(request.max_tokens, limits, field="max_tokens")
    default = min(LEGACY_DEFAULT_OUTPUT_TOKENS, limits.max_output_tokens)
    sized = []
    for ids in prompts:
        if not ids:
            raise invalid("prompt", "prompt must hold at least one token; this model adds none by itself")
        for id_ in ids:
            if not 0 <= id_ < model.vocab_size:
                raise invalid("prompt", f"prompt holds token id {id_}; ids must be 0 to {model.vocab_size - 1}")
        num_tokens = _output_tokens(len(ids), wanted, default=default, model=model, param="prompt")
        sized.append((tuple(ids), num_tokens))
    return _spread(request, sized, model=model, limits=limits, tenant=tenant, draw_seed=draw_seed)


def _spread(
    request: ChatRequest | CompletionRequest,
    sized: Sequence[tuple[tuple[int, ...], int]],
    *,
    model: ModelFacts,
    limits: GatewayLimits,
    tenant: str,
    draw_seed: Callable[[], int],
) -> tuple[Choice, ...]:
    n = request.n or 1
    if n > limits.max_choices:
        raise invalid("n", f"n ({n}) must not exceed {limits.max_choices} here; send several requests")
    own_stops = tuple(request.stop_token_ids or ())
    for field, ids in (("logit_bias", request.logit_bias), ("stop_token_ids", own_stops)):
        for id_ in ids:
            if not 0 <= id_ < model.vocab_size:
                raise invalid(field, f"{field} holds token id {id_}; ids must be 0 to {model.vocab_size - 1}")
    first_seed = draw_seed() if request.seed is None else request.seed
    top_p = 1.0 if request.top_p is None else request.top_p
    # A nucleus of nothing still holds the likeliest token.
    top_k = 1 if top_p == 0 else request.top_k or 0
    end_tokens = () if request.ignore_eos else model.stop_token_ids
    session = session_of(request, tenant)
    choices: list[Choice] = []
    for prompt, (ids, num_tokens) in enumerate(sized):
        for _ in range(n):
            index = len(choices)
            how = GenerateRequest(
                max_tokens=num_tokens,
                temperature=1.0 if request.temperature is None else request.temperature,
                top_p=top_p or 1.0,
                top_k=top_k,
                min_p=request.min_p or 0.0,
                frequency_penalty=request.frequency_penalty or 0.0,
                presence_penalty=request.presence_penalty or 0.0,
                repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
                logit_bias=request.logit_bias,
                logprobs=request.num_top_logprobs,
                # Each choice has a stream of its own, and the same one whenever the request is repeated.
                seed=(first_seed + index) % SEEDS,
                stop_token_ids=end_tokens + own_stops,
                ignore_eos=bool(request.ignore_eos),
                vocabulary=model.vocabulary,
                cache_salt=cache_salt(tenant, request.cache_salt),
            )
            choices.append(Choice(index, prompt, ids, how, tuple(request.stop), session))
    return tuple(choices)


def _checked_output(wanted: int | None, limits: GatewayLimits, *, field: str) -> int | None:
    if wanted is not None and wanted > limits.max_output_tokens:
        raise invalid(field, f"{field} ({wanted}) must not exceed {limits.max_output_tokens} here; ask for less")
    return wanted


def _output_tokens(num_prompt: int, wanted: int | None, *, default: int, model: ModelFacts, param: str) -> int:
    """How many tokens to generate after a prompt: what was asked for, or as much of the default as fits."""
    window = model.max_context_tokens
    if window is None:
        return wanted or default
    if num_prompt + (wanted or 1) > window:
        asked = f"{wanted} for the answer" if wanted else "at least 1 for the answer"
        raise ApiError(
            400,
            f"This model's context is {window} tokens; the request has {num_prompt} in {param} and asks for {asked}. "
            f"Shorten {param}{' or ask for fewer tokens' if wanted else ''}.",
            param=param,
            code="context_length_exceeded",
        )
    return wanted or min(window - num_prompt, default)
