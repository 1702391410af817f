"""The demo model in this process, and requests through engines over it, with proposals and without."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.proposals import NOTHING, Ask, Proposal, Proposer
from flash_runtime.engine.speculation import Speculation
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.cache import Cache, default_root
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull_into_cache
from flash_runtime.model.sources import open_source
from flash_runtime.packed import PackedFile
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.wire import GenerateRequest

DEMO = "builtin://smollm2-135m-instruct"
KV_CACHE_BYTES = 1024**3
_TODAY = datetime(2026, 1, 1, tzinfo=UTC)


class AnswersDiffer(Exception):
    """Proposals changed an answer: whatever the speed, it is a defect."""


@dataclass(frozen=True)
class Decoded:
    """What one batch of requests took from the last first token on."""

    answers: list[list[int]]
    seconds: float
    num_tokens: int
    """Tokens of all requests in those seconds."""

    @property
    def milliseconds_per_token(self) -> float:
        """Wall-clock, of each request: the batch shares its steps."""
        return self.seconds * 1000 * len(self.answers) / self.num_tokens


def same(plain: Decoded, drafted: Decoded, what: str) -> None:
    """Raises AnswersDiffer unless both say the same."""
    if plain.answers != drafted.answers:
        raise AnswersDiffer(f"{what}: an answer with proposals differs from the one without")


def packed(uri: str) -> Path:
    """The model of this name, packed as int8."""
    cache = Cache(default_root(os.environ))
    progress = ProgressReporter(sys.stderr, None)
    source = open_source(uri, revision=None, sha256=None, environment=os.environ, cache=cache, progress=progress)
    return pull_into_cache(PullRequest(source, "Lite", cache.root), cache=cache, progress=progress)


class Demo:
    """A packed model on the CPU, and its chat form."""

    def __init__(self, threads: int | None = None, uri: str = DEMO) -> None:
        path = packed(uri)
        assets = TextAssets.from_packed(path)
        self._template = ChatTemplate(assets.header, Tokenizer(assets), now=lambda: _TODAY)
        self.eos_token_ids = assets.header.eos_token_ids
        self.path = path
        self.provider = CpuProvider(PackedFile.open(path), kv_cache_bytes=KV_CACHE_BYTES, threads=threads)
        self._salts = itertools.count()

    def prompt(self, text: str) -> list[int]:
        """Token ids of a chat's first turn."""
        return self._template.encode([Message("user", text)])

    def speculation(
        self, proposer: Proposer, lookahead: int | None = None, *, beside: Proposer | None = None
    ) -> Speculation:
        """Proposals for this model."""
        vocab_size = self.provider.vocab_size
        return Speculation(proposer, vocab_size=vocab_size, clock=time.perf_counter, lookahead=lookahead, beside=beside)

    def decode(
        self,
        prompts: Sequence[list[int]],
        speculation: Speculation | None,
        *,
        max_tokens: int,
        ignore_eos: bool = False,
        temperature: float = 0.0,
    ) -> Decoded:
        """Answer all prompts as one batch. No prompt finds another one's cache."""
        limits = EngineLimits(max_running=len(prompts), max_batch_tokens=512)
        engine = Engine(self.provider, limits=limits, eos_token_ids=self.eos_token_ids, speculation=speculation)
        request = GenerateRequest(
            max_tokens=max_tokens, ignore_eos=ignore_eos, temperature=temperature, cache_salt=f"run {next(self._salts)}"
        )
        for number, ids in enumerate(prompts):
            engine.add(str(number), ids, request)
        answers: list[list[int]] = [[] for _ in prompts]
        while not all(answers) and engine.has_work:
            for output in engine.step():
                answers[int(output.request_id)] += output.token_ids
        before = sum(map(len, answers))
        began = time.perf_counter()
        while engine.has_work:
            for output in engine.step():
                answers[int(output.request_id)] += output.token_ids
        seconds = time.perf_counter() - began
        return Decoded(answers, seconds, sum(map(len, answers)) - before)


class SetAcceptance:
    """A draft that costs nothing and is right about each next token with a set probability."""

    is_free = True
    runs_ahead = False

    def __init__(self, sequences: Sequence[list[int]], acceptance: float) -> None:
        self._sequences = sequences
        self._acceptance = acceptance
        self._random = random.Random(0)

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        """The tokens that will come, each made wrong now and then."""
        return [self._one(ask.token_ids, ask.num_tokens) for ask in asks]

    def forget(self, key: int) -> None:
        """It keeps nothing."""

    def _one(self, token_ids: Sequence[int], count: int) -> Proposal:
        length = len(token_ids)
        known = next(ids for ids in self._sequences if ids[:length] == token_ids)
        coming = [
            token if self._random.random() < self._acceptance else token ^ 1 for token in known[length : length + count]
        ]
        return Proposal(coming) if coming else NOTHING
