"""One model behind the API: from a parsed request to pieces of text. Knows no HTTP.

Everything that a test may want to replace (engine, clock, randomness) is an argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flash_api.config.gateway import GatewayConfig
from flash_runtime.gateway.answers import Usage
from flash_runtime.gateway.choices import Choice, ModelFacts, chat_choices, completion_choices
from flash_runtime.gateway.engine import Engine, EngineError, EngineOverloaded, EngineRefused
from flash_runtime.gateway.errors import ApiError, from_engine, invalid
from flash_runtime.gateway.generation import Piece, run_choices, until
from flash_runtime.gateway.metrics import Metrics
from flash_runtime.gateway.recent import Recent
from flash_runtime.gateway.record import Record
from flash_runtime.gateway.requests import ChatRequest, CompletionRequest
from flash_runtime.gateway.resume import Resuming
from flash_runtime.gateway.tracks import Tracks
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatRefused, ChatTemplate, ChatTemplateBroken, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.wire import vocabulary_of

INLINE_CHARACTERS = 16_384
"""Longer texts are tokenized on a thread, so that they do not hold up other requests' tokens (about 2 ms)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Surroundings:
    """What the outside world provides."""

    clock: Callable[[], float]
    """Monotonic seconds."""
    wall_clock: Callable[[], float]
    """Seconds since 1970."""
    draw_seed: Callable[[], int]
    draw_id: Callable[[], str]


class Gateway:
    """The served model."""

    def __init__(
        self,
        config: GatewayConfig,
        assets: TextAssets,
        engine: Engine | Tracks,
        *,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate,
        surroundings: Surroundings,
        patience_seconds: float = 0.0,
    ) -> None:
        """`patience_seconds`: how long a stream that an engine broke off waits for another one; 0 = it fails."""
        self.config = config
        self._patience_seconds = patience_seconds
        self.metrics = Metrics(config.served_model_name)
        self.recent_ttft, self.recent_tpot = Recent(surroundings.clock), Recent(surroundings.clock)
        self.surroundings = surroundings
        self.started_at = int(surroundings.wall_clock())
        self.system_fingerprint = f"fp_{assets.fingerprint[:12]}"
        self._tracks = engine if isinstance(engine, Tracks) else Tracks(engine)
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        windows = [limit for limit in (config.max_context_tokens, assets.max_context_tokens) if limit is not None]
        # Nobody else serves two models at a time, and an engine of an older release does not know the field.
        vocabulary = vocabulary_of(assets.tokenizer_json) if config.canary is not None else ""
        self._model = ModelFacts(
            tokenizer.vocab_size, assets.header.eos_token_ids, min(windows, default=None), vocabulary
        )
        self.answered_at: float | None = None
        """When an engine last sent a token, on the clock, and nothing has failed since: proof that the route works."""
        self.num_failures = 0
        """Streams that an engine could not begin or finish, for whatever reason but the request itself."""

    @property
    def has_chat(self) -> bool:
        """Whether the model can chat."""
        return self._chat_template.exists

    async def chat(self, request: ChatRequest, tenant: str = "") -> tuple[Choice, ...]:
        """What the engines must do for a chat. Raises ApiError."""
        self.check_model(request.model)
        if not self._chat_template.exists:
            raise invalid(
                "messages", "messages cannot be used: this model has no chat template; use /v1/completions", code=None
            )
        messages = [
            Message("system" if message.role == "developer" else message.role, message.content)
            for message in request.messages
        ]
        length = sum(len(message.content) for message in messages)
        try:
            ids = await _run(length, partial(self._chat_template.encode, messages))
        except ChatRefused as error:
            raise invalid("messages", f"messages are not accepted by the model's chat template: {error}") from error
        except ChatTemplateBroken as error:
            raise ApiError(500, f"The model's {error}.", type_="server_error", code="chat_template_failed") from error
        return chat_choices(
            request,
            ids,
            model=self._model,
            limits=self.config.limits,
            tenant=tenant,
            draw_seed=self.surroundings.draw_seed,
        )

    async def complete(self, request: CompletionRequest, tenant: str = "") -> tuple[Choice, ...]:
        """What the engines must do for text completions. Raises ApiError."""
        self.check_model(request.model)
        prompts: list[Sequence[int]] = []
        for prompt in request.prompt:
            if isinstance(prompt, str):
                prompts.append(await _run(len(prompt), partial(self._tokenizer.encode_raw, prompt)))
            else:
                prompts.append(prompt)
        return completion_choices(
            request,
            prompts,
            model=self._model,
            limits=self.config.limits,
            tenant=tenant,
            draw_seed=self.surroundings.draw_seed,
        )

    async def run(self, choices: Sequence[Choice], usage: Usage, record: Record) -> AsyncGenerator[Piece, None]:
        """Pieces of the answer, counted as they pass. Raises ApiError."""
        # A canary request of our own would say nothing of the route if it were given to pods on trial.
        session = choices[0].session if record.counted else None
        trial = await self._tracks.choose(session, self.metrics.count_stream)
        record.track = trial.track
        seconds = self.config.limits.request_timeout_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        engine: Engine = trial
        if self._patience_seconds:
            engine = Resuming(trial, patience_seconds=self._patience_seconds, clock=self.surroundings.clock)
        pieces = until(
            run_choices(engine, self._tokenizer.decode, self._tokenizer.spell, choices),
            deadline=deadline,
            late=lambda: ApiError(
                504,
                f"The answer took longer than {seconds} s, the longest a request may take; ask for fewer tokens.",
                type_="server_error",
                code="request_timeout",
            ),
        )
        record.prompt_tokens, record.num_choices = usage.prompt_tokens, len(choices)
        failure: str | None = None
        if record.trace is not None:
            record.trace.engine_starts()
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._note(piece, usage, record)
                    yield piece
        except EngineError as error:
            failure = type(error).__name__
            if not isinstance(error, EngineRefused | EngineOverloaded):
                self.answered_at = None
                self.num_failures += 1
            raise from_engine(error, self.config.regions) from error
        finally:
            self._settle(record)
            if record.trace is not None:
                record.trace.engine_ended(record, failure)

    def check_model(self, name: str) -> None:
        """Raises ApiError for a model that is not served here."""
        served = self.config.served_model_name
        if name != served:
            raise ApiError(
                404,
                f"The model `{name[:100]}` does not exist here; use `{served}`.",
                param="model",
                code="model_not_found",
            )

    def _note(self, piece: Piece, usage: Usage, record: Record) -> None:
        usage.add(piece)
        record.completion_tokens = usage.completion_tokens
        if piece.is_news:
            now = self.surroundings.clock()
            self.answered_at = record.last_token_at = now
            if record.first_token_at is None:
                record.first_token_at = now
                if record.counted:
                    self.metrics.observe_first_token(now - record.started_at, track=record.track)
                    self.recent_ttft.observe(now - record.started_at)

    def _settle(self, record: Record) -> None:
        """Count what was generated, also when the client left or the engine failed."""
        if not record.counted or record.first_token_at is None or record.last_token_at is None:
            return
        self.metrics.prompt_tokens.inc(record.prompt_tokens)
        self.metrics.completion_tokens.inc(record.completion_tokens)
        num_later_tokens = record.completion_tokens - record.num_choices
        if num_later_tokens > 0:
            seconds = (record.last_token_at - record.first_token_at) * record.num_choices
            self.metrics.observe_output_token(seconds / num_later_tokens, track=record.track)
            self.recent_tpot.observe(seconds / num_later_tokens)


async def _run(num_characters: int, work: Callable[[], T]) -> T:
    return work() if num_characters <= INLINE_CHARACTERS else await asyncio.to_thread(work)
