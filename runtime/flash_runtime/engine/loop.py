"""The engine: schedule, run the provider, sample, settle. Knows token ids; no HTTP, no tensor server, no tokenizer.

One thread owns an Engine: `add`, `cancel` and `step` are never called at the same time.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flash_runtime.engine.adjust import TokenMask, adjuster
from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.blocks import NO_BLOCK, BlockPool, root_key
from flash_runtime.engine.choose import Choices, Chosen
from flash_runtime.engine.errors import EngineError, NonFiniteLogits, QueueFull, RequestRefused
from flash_runtime.engine.record import SpeculationStats
from flash_runtime.engine.scheduler import Chunk, Scheduler
from flash_runtime.engine.sequence import Sequence
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import FinishReason, GenerateRequest, TokenLogprobs


@dataclass(frozen=True)
class EngineLimits:
    """How much one engine takes on at once."""

    max_running: int = 16
    max_queued: int = 128
    max_batch_tokens: int = 512
    max_context_tokens: int | None = None
    """Prompt plus output; None = the model's own limit."""


class Output(NamedTuple):
    """What one step produced for one request. With a finish reason or an error it is the last one."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: EngineError | None = None
    cached_tokens: int = 0
    """Prompt tokens that were not computed because their keys and values were cached."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, when the request asked for them."""

    @property
    def is_final(self) -> bool:
        """Whether the request is over."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True)
class EngineStats:
    """Gauges and counters since construction."""

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    steps: int
    prompt_tokens: int
    cached_prompt_tokens: int
    generated_tokens: int
    preemptions: int
    answers: int = 0
    """Times that a sequence got tokens of a step: what one token at a time would have made of generated tokens."""
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    fallbacks: tuple[tuple[str, int], ...] = ()
    """Why proposals were missing, and how often."""
    speculation: SpeculationStats | None = None


class Engine:
    """Continuous batching of requests over one provider."""

    def __init__(
        self,
        provider: Provider,
        *,
        limits: EngineLimits,
        eos_token_ids: Collection[int] = (),
        speculation: Speculation | None = None,
    ) -> None:
        """`speculation`: proposes tokens for steps to verify. Answers are the same with it and without."""
        self._provider = provider
        self._speculation = speculation
        self._limits = limits
        self._eos = frozenset(eos_token_ids)
        self._pool = BlockPool(provider.num_blocks, provider.block_size)
        self._scheduler = Scheduler(
            self._pool,
            max_running=limits.max_running,
            max_batch_tokens=limits.max_batch_tokens,
            window=provider.window,
        )
        window = limits.max_context_tokens or provider.max_context_tokens
        self._model_window = min(window, provider.max_context_tokens)
        self._kv_tokens = provider.num_blocks * provider.block_size
        self._sequences: dict[str, Sequence] = {}
        self._steps = self._prompt_tokens = self._cached_prompt_tokens = self._generated_tokens = self._answers = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._sequences)

    def add(
        self,
        request_id: str,
        prompt_ids: Ids[int],
        request: GenerateRequest,
        *,
        mask: TokenMask | None = None,
    ) -> None:
        """Queue a request. Raises RequestRefused for one that can never run, QueueFull when there is no room now.

        `mask` restricts the answer.
        """
        self._check(request_id, prompt_ids, request)
        capacity = self._limits.max_running + self._limits.max_queued
        if len(self._sequences) >= capacity:
            raise QueueFull(capacity)
        sequence = Sequence(
            request_id=request_id,
            token_ids=list(prompt_ids),
            num_prompt_tokens=len(prompt_ids),
            request=request,
            root=root_key(request.cache_salt),
            max_total_tokens=min(len(prompt_ids) + request.max_tokens, self._model_window),
            adjuster=adjuster(request, prompt_ids, mask),
        )
        self._sequences[request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> bool:
        """Forget a request and free its memory at once. False when it is already over."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        self._scheduler.remove(sequence)
        if self._speculation is not None:
            self._speculation.forget(sequence)
        return True

    def step(self) -> list[Output]:
        """Run one batch; an Output for each sequence that produced tokens or ended."""
        chunks = self._scheduler.schedule()
        if not chunks:
            return []
        if self._speculation is None:
            choices = Choices(self._provider.step(_batch(chunks)))
        else:
            chunks = self._speculation.join(chunks, self._scheduler)
            choices = Choices(self._speculation.timed(self._provider, _batch(chunks)))
        self._steps += 1
        outputs: list[Output] = []
        for index, chunk in enumerate(chunks):
            if not chunk.wants_logits:
                continue
            if chunk.proposed:
                chunks[index] = self._verify(chunk, choices, outputs)
            else:
                outputs.append(self._advance(chunk, choices))
        self._scheduler.settle(chunks)
        for output in outputs:
            if output.finish_reason is not None or output.error is not None:
                self.cancel(output.request_id)
        return outputs

    def stats(self) -> EngineStats:
        """What is going on, and what has happened since construction."""
        speculation = self._speculation
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            kv_blocks_used=self._pool.num_used,
            kv_blocks_total=self._pool.num_blocks,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._scheduler.num_preemptions,
            answers=self._answers,
            proposed_tokens=speculation.proposed_tokens if speculation else 0,
            accepted_tokens=speculation.accepted_tokens if speculation else 0,
            fallbacks=tuple(speculation.fallbacks.items()) if speculation else (),
            speculation=speculation.stats() if speculation else None,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless sequences, blocks and counts agree."""
        self._scheduler.check_integrity()
        assert len(self._sequences) == self._scheduler.num_running + self._scheduler.num_waiting

    def _check(self, request_id: str, prompt_ids: Ids[int], request: GenerateRequest) -> None:
        if request_id in self._sequences:
            raise RequestRefused(field="request_id", value=request_id, rule="is already running")
        length = len(prompt_ids)
        if length == 0:
            raise RequestRefused(field="input_ids", value="0 tokens", rule="must hold at least one token")
        vocab_size = self._provider.vocab_size
        for field, ids in (("input_ids", prompt_ids), ("logit_bias", request.logit_bias)):
            for outlier in (min(ids), max(ids)) if ids else ():
                if not 0 <= outlier < vocab_size:
                    raise RequestRefused(
                        field=field, value=outlier, rule=f"must hold token ids from 0 to {vocab_size - 1}"
                    )
        # One token of room for the answer.
        if length >= self._model_window:
            raise RequestRefused(
                field="input_ids",
                value=f"{length} tokens",
                rule=f"must be shorter than the context window of {self._model_window} tokens",
            )
        longest = min(length + request.max_tokens, self._model_window)
        if length < self._kv_tokens < longest:
            raise RequestRefused(
                field="max_tokens",
                value=request.max_tokens,
                rule=f"is too much after a prompt of {length} tokens: together they must fit into the KV cache, which "
                f"holds {self._kv_tokens} tokens (ask for at most {self._kv_tokens - length}, or raise kv_cache_bytes)",
            )
        if length >= self._kv_tokens:
            raise RequestRefused(
                field="input_ids",
                value=f"{length} tokens",
                rule=f"must be shorter than the KV cache, which holds {self._kv_tokens} tokens (raise kv_cache_bytes)",
            )

    def _advance(self, chunk: Chunk, choices: Choices) -> Output:
        """Choose the next token of a sequence and take it in; the output ends the sequence where it ends."""
        sequence = chunk.sequence
        chosen = choices.choose(sequence, choices.take(sequence, 1))
        if not isinstance(chosen, Chosen):
            return Output(sequence.request_id, error=chosen)
        reason = self._take_in(sequence, chosen)
        self._answers += 1
        if self._speculation is not None:
            self._speculation.learn(sequence, 0, (chosen.token_id,))
        if reason is FinishReason.STOP:
            return _output(sequence, (), (), reason)
        return _output(sequence, (chosen.token_id,), () if chosen.logprobs is None else (chosen.logprobs,), reason)

    def _verify(self, chunk: Chunk, choices: Choices, outputs: list[Output]) -> Chunk:
        """Choose token by token as far as proposals hold. Returns the chunk with those that did."""
        assert self._speculation is not None
        sequence, proposed = chunk.sequence, chunk.proposed
        row = choices.take(sequence, 1 + len(proposed))
        token_ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        num_held, reason, error = 0, None, None
        for at in range(1 + len(proposed)):
            chosen = choices.choose(sequence, row + at)
            if not isinstance(chosen, Chosen):
                error = chosen
                break
            reason = self._take_in(sequence, chosen)
            if reason is not FinishReason.STOP:
                token_ids.append(chosen.token_id)
                if chosen.logprobs is not None:
                    logprobs.append(chosen.logprobs)
            if reason is not None or at == len(proposed) or chosen.token_id != proposed[at]:
                break
            num_held += 1
        self._speculation.learn(sequence, len(proposed), token_ids)
        if isinstance(error, NonFiniteLogits) and num_held < len(proposed):
            # A proposed token stood behind it, and what that one made of the cache may be the cause: once more without.
            self._speculation.give_up(sequence)
            error = None
            num_held -= 1
        if token_ids or reason is not None:
            self._answers += 1
            outputs.append(_output(sequence, tuple(token_ids), tuple(logprobs), reason))
        if error is not None:
            outputs.append(Output(sequence.request_id, error=error))
        return chunk._replace(num_tokens=1 + num_held)

    def _take_in(self, sequence: Sequence, chosen: Chosen) -> FinishReason | None:
        """Add a chosen token to the sequence, unless it is one that ends it. Returns why the sequence is over."""
        length = len(sequence.token_ids)
        if length == sequence.num_prompt_tokens:
            self._prompt_tokens += length
            self._cached_prompt_tokens += sequence.num_cached_tokens or 0
        request, token = sequence.request, chosen.token_id
        if token in request.stop_token_ids or (token in self._eos and not request.ignore_eos):
            return FinishReason.STOP
        sequence.token_ids.append(token)
        if sequence.adjuster is not None:
            sequence.adjuster.advance(token)
        self._generated_tokens += 1
        return FinishReason.LENGTH if length + 1 >= sequence.max_total_tokens else None


def _output(
    sequence: Sequence, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...], reason: FinishReason | None
) -> Output:
    cached_tokens = 0 if reason is None else sequence.num_cached_tokens or 0
    return Output(sequence.request_id, token_ids, reason, None, cached_tokens, logprobs)


def _batch(chunks: list[Chunk]) -> Batch:
    token_ids: list[int] = []
    positions: list[int] = []
    query_starts = [0]
    logit_rows: list[int] = []
    best_rows: list[int] = []
    tables: list[bytes] = []
    width = max([len(chunk.sequence.blocks) for chunk in chunks])
    for sequence, start, count, proposed in chunks:
        end = start + count
        if count == 1:
            token_ids.append(sequence.token_ids[start])
            positions.append(start)
        else:
            token_ids += sequence.token_ids[start:end]
            positions += range(start, end)
        if end == len(sequence.token_ids):
            rows = best_rows if sequence.takes_best_token else logit_rows
            rows.append(len(token_ids) - 1)
            if proposed:
                rows += range(len(token_ids), len(token_ids) + len(proposed))
                token_ids += proposed
                positions += range(end, end + len(proposed))
        query_starts.append(len(token_ids))
        tables.append(sequence.blocks.tobytes())
        if missing := width - len(sequence.blocks):
            tables.append(_NO_BLOCK * missing)
    return Batch(
        token_ids=np.array(token_ids, dtype=np.int32),  # [T]
        positions=np.array(positions, dtype=np.int32),  # [T]
        query_starts=np.array(query_starts, dtype=np.int32),  # [S + 1]
        block_tables=np.frombuffer(b"".join(tables), dtype=np.int32).reshape(len(chunks), width),  # [S, B]
        logit_rows=np.array(logit_rows, dtype=np.int32),  # [R]
        best_rows=np.array(best_rows, dtype=np.int32),  # [C]
    )


_NO_BLOCK = np.int32(NO_BLOCK).tobytes()
