"""What flash-tiny and its draft are worth, measured and written to docs/models.md.

    python recipes/flash-tiny/truth.py TEXTS [--carved FOLDER]

TEXTS is the folder that texts.py filled; only its held-out passages are read. Every model runs in the native engine, so
the figures are of what is served. `--carved` is a student before it was trained, made by `flash distill`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from flash_runtime.engine.batch import IntArray
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.cache import Cache, default_root
from flash_runtime.model.evaluate import Score, evaluate
from flash_runtime.model.expert_load import layer_loads
from flash_runtime.model.opened import native_provider, open_packed
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull_into_cache
from flash_runtime.model.sequence import Sequence as Run
from flash_runtime.model.sources import open_source
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.training.teacher import Lessons, write_lessons

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
_MARKS: Final = ("<!-- measured: begin -->", "<!-- measured: end -->")
_WINDOW: Final = 256
_KINDS: Final = ("wiki", "dictionary", "essay")
_LOOKAHEADS: Final = (1, 2, 4, 8)
_SAMPLES: Final = ("What is bread?", "Tell me about the moon.")


@dataclass(frozen=True)
class Model:
    """One row."""

    label: str
    uri: str
    variant: str


class Bench:
    """Models and text."""

    def __init__(self, texts: Path, windows: int) -> None:
        self._texts = texts
        self._windows = windows
        self._cache = Cache(default_root(os.environ))
        self._progress = ProgressReporter(sys.stderr, None)
        self.assets = TextAssets.from_packed(self.path(Model("", "builtin://smollm2-135m-instruct", "Cloud")))
        self.tokenizer = Tokenizer(self.assets)

    def path(self, model: Model) -> Path:
        source = open_source(
            model.uri, revision=None, sha256=None, environment=os.environ, cache=self._cache, progress=self._progress
        )
        request = PullRequest(source, model.variant, self._cache.root)
        return pull_into_cache(request, cache=self._cache, progress=self._progress)

    def provider(self, model: Model, cached_tokens: int = _WINDOW) -> CpuProvider:
        return native_provider(self.path(model), cached_tokens=cached_tokens)

    def windows(self, kind: str) -> list[IntArray]:
        """Held-out text of one kind."""
        ids: list[int] = []
        for line in (self._texts / f"{kind}.held-out.jsonl").read_text().splitlines():
            ids += [*self.tokenizer.encode(json.loads(line)), self.assets.header.eos_token_ids[0]]
        starts = [index * (len(ids) - _WINDOW) // self._windows for index in range(self._windows)]
        return [np.array(ids[start : start + _WINDOW], dtype=np.int32) for start in starts]

    def answers(self, model: Model, prompts: Sequence[str]) -> Lessons:
        """What the model answers greedily."""
        template = ChatTemplate(self.assets.header, self.tokenizer, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        return write_lessons(
            self.provider(model, 16 * _WINDOW),
            [np.array(template.encode([Message("user", prompt)]), dtype=np.int32) for prompt in prompts],
            length=_WINDOW - 32,
            end_tokens=self.assets.header.eos_token_ids,
            temperatures=(0.0,),
            seed=0,
            on_tokens=lambda count: None,
        )

    def prompts(self) -> list[str]:
        lines = (self._texts / "prompts.held-out.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines[: 2 * self._windows]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--carved", type=Path)
    parser.add_argument("--windows", type=int, default=10, help=f"windows of {_WINDOW} tokens of each kind of text")
    options = parser.parse_args()
    bench = Bench(options.texts, options.windows)
    teacher = Model("SmolLM2-135M-Instruct, the teacher", "builtin://smollm2-135m-instruct", "Cloud")
    served = Model("`flash-tiny`, int8 (`Lite`)", "builtin://flash-tiny", "Lite")
    draft = Model("`flash-tiny-draft`, int8", "builtin://flash-tiny-draft", "Lite")
    others = [
        Model("`flash-tiny`, bf16 (`Cloud`)", "builtin://flash-tiny", "Cloud"),
        served,
        Model("`flash-tiny`, int4 (`Nano`)", "builtin://flash-tiny", "Nano"),
        draft,
    ]
    if options.carved is not None:
        others.insert(0, Model("carved, not trained, bf16", options.carved.absolute().as_uri(), "Cloud"))
    providers = {model.label: bench.provider(model) for model in others}
    chat = bench.answers(teacher, bench.prompts())
    scores: dict[str, dict[str | None, Score]] = {}
    for kind in _KINDS:
        scores[kind] = evaluate(bench.provider(teacher), providers, bench.windows(kind))
        print(kind, {name: round(score.perplexity, 2) for name, score in scores[kind].items()}, file=sys.stderr)
    said = [ids[:length] for ids, length in zip(chat.token_ids, chat.lengths, strict=True)][: options.windows]
    scores["chat"] = evaluate(bench.provider(teacher), providers, said)
    parts = [
        _table(teacher, others, scores),
        _experts(bench, served, providers[served.label]),
        _acceptance(bench, served, teacher, draft),
        _samples(bench, [teacher, *others[:-1]]),
    ]
    _write("\n\n".join(parts))


def _table(teacher: Model, others: Sequence[Model], scores: Mapping[str, Mapping[str | None, Score]]) -> str:
    kinds = list(scores)
    lines = [
        "| model | " + " | ".join(kinds) + " | same best token: " + " / ".join(kinds) + " |",
        "|---|" + "---|" * (len(kinds) + 1),
        f"| {teacher.label}, bf16 | " + " | ".join(f"{scores[kind][None].perplexity:.2f}" for kind in kinds) + " | |",
    ]
    for model in others:
        found = [scores[kind][model.label] for kind in kinds]
        figures = " | ".join(f"{one.perplexity:.2f} ({one.change:+.0%})" for one in found)
        lines.append(f"| {model.label} | {figures} | " + " / ".join(f"{one.same_top:.0%}" for one in found) + " |")
    return "\n".join(lines)


def _experts(bench: Bench, model: Model, provider: CpuProvider) -> str:
    _, plan = open_packed(bench.path(model))
    counts = provider.expert_load()
    assert counts is not None
    loads = layer_loads(counts, plan)
    most, least = max(load.skew for load in loads), min(min(load.shares) for load in loads)
    dead = sum(len(load.dead) for load in loads)
    return (
        f"Experts over the same text: the busiest of any layer sees {most:.2f} times its layer's mean, the idlest "
        f"{least:.2f} times; {dead} of {sum(len(load.tokens) for load in loads)} are dead."
    )


def _acceptance(bench: Bench, served: Model, teacher: Model, draft: Model) -> str:
    """Over the target's own greedy answers, where a draft token is accepted exactly when it is the next one."""
    lines = [
        "| target, its own greedy answers | greedy match | tokens for each step, by lookahead "
        + " / ".join(map(str, _LOOKAHEADS))
        + " |",
        "|---|---|---|",
    ]
    proposer = bench.provider(draft)
    for target in (served, Model(teacher.label, teacher.uri, "Lite")):
        answers = bench.answers(target, bench.prompts())
        hits: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
        for ids, length, prompt in zip(answers.token_ids, answers.lengths, answers.prompts, strict=True):
            best = Run(proposer).feed(ids[:length]).argmax(axis=1)
            hits.append(best[prompt - 1 : length - 1] == ids[prompt:length])
        match = np.concatenate(hits).mean()
        lengths = " / ".join(f"{_tokens_per_step(hits, lookahead):.2f}" for lookahead in _LOOKAHEADS)
        lines.append(f"| {target.label} | {match:.2f} | {lengths} |")
    return "\n".join(lines)


def _tokens_per_step(hits: Sequence[np.ndarray[Any, np.dtype[np.bool_]]], lookahead: int) -> float:
    """Tokens that one step of the target yields when it verifies so many proposals."""
    tokens = steps = 0
    for sequence in hits:
        position = 0
        while position < len(sequence):
            run = sequence[position : position + lookahead]
            accepted = len(run) if run.all() else int(np.argmin(run))
            tokens += accepted + 1
            steps += 1
            position += accepted + 1
    return tokens / max(1, steps)


def _samples(bench: Bench, models: Sequence[Model]) -> str:
    lines = ["Greedy answers, cut at 60 tokens:", ""]
    for model in models:
        answers = bench.answers(model, _SAMPLES)
        found = {}
        for ids, length, prompt in zip(answers.token_ids, answers.lengths, answers.prompts, strict=True):
            asked = bench.tokenizer.decode(ids[:prompt].tolist())
            found[asked] = bench.tokenizer.decode(ids[prompt : min(length, prompt + 60)].tolist())
        for question in _SAMPLES:
            answer = next(text for asked, text in found.items() if question in asked)
            lines.append(f"- {model.label}: *{question}* " + " ".join(answer.split()))
    return "\n".join(lines)


def _write(measured: str) -> None:
    page = PAGE.read_text()
    before, rest = page.split(_MARKS[0])
    _, after = rest.split(_MARKS[1])
    PAGE.write_text(f"{before}{_MARKS[0]}\n{measured}\n{_MARKS[1]}{after}")
    print(measured)


if __name__ == "__main__":
    main()
