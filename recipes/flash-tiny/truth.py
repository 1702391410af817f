"""What flash-tiny and its draft are worth, measured and written to docs/models.md.

    python recipes/flash-tiny/truth.py TEXTS [--carved FOLDER]

TEXTS is the folder that texts.py filled; only its held-out passages are read. Every model runs in the native engine, so
the figures are of what is served. `--carved` is a student before it was trained, made by `flash distill` from a recipe
without `distil`. The plot (docs/models.svg) needs matplotlib, of extra `train`.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from flash_runtime.model.plan import DenseMlp, MoeMlp
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull_into_cache
from flash_runtime.model.sequence import Sequence as Run
from flash_runtime.model.sources import open_source
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.training.teacher import Lessons, write_lessons

Hits = np.ndarray[Any, np.dtype[np.bool_]]
"""Whether each token of an answer was foreseen."""
PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
PLOT: Final = PAGE.with_name("models.svg")
_MARKS: Final = ("<!-- measured: begin -->", "<!-- measured: end -->")
_WINDOW: Final = 256
_KINDS: Final = ("wiki", "dictionary", "essay")
_LOOKAHEADS: Final = (1, 2, 4, 8)
_SAMPLES: Final = ("What is bread?", "Tell me about the moon.")
_SAMPLE_TOKENS: Final = 40
_ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "questions": ("What is", "What are", "Explain", "Why does", "How would you explain", "Tell me about"),
    "texts to write": ("Write a short story", "Write a short email", "Write a paragraph", "Can you write a poem"),
    "lists and advice": ("Give me three", "List five", "Summarize", "How do I use", "I want to learn"),
    "code": ("Write a Python",),
}
"""How the questions of texts.py begin, by kind."""


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

    def answers(self, model: Model, prompts: Sequence[str], tokens: int) -> Lessons:
        """What the model answers greedily; a question and its answer are cut at so many tokens together."""
        template = ChatTemplate(self.assets.header, self.tokenizer, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        return write_lessons(
            self.provider(model, 16 * tokens),
            [np.array(template.encode([Message("user", prompt)]), dtype=np.int32) for prompt in prompts],
            length=tokens,
            end_tokens=self.assets.header.eos_token_ids,
            temperatures=(0.0,),
            seed=0,
            on_tokens=lambda count: None,
        )

    def prompts(self, count: int) -> dict[str, list[str]]:
        """Held-out questions, so many of each kind."""
        lines = [json.loads(line) for line in (self._texts / "prompts.held-out.jsonl").read_text().splitlines()]
        return {kind: [line for line in lines if line.startswith(begin)][:count] for kind, begin in _ASKED.items()}


@dataclass(frozen=True)
class Accepted:
    """How much of one target's answers to one kind of question a draft foresees."""

    target: str
    kind: str
    match: float
    tokens_per_step: tuple[float, ...]
    """For each of _LOOKAHEADS."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--carved", type=Path)
    parser.add_argument("--windows", type=int, default=10, help=f"windows of {_WINDOW} tokens of each kind of text")
    parser.add_argument("--questions", type=int, default=6, help="questions of each kind that are answered")
    parser.add_argument("--answer-tokens", type=int, default=192, help="tokens of a question and its answer together")
    options = parser.parse_args()
    bench = Bench(options.texts, options.windows)
    teacher = Model("SmolLM2-135M-Instruct, the teacher", "builtin://smollm2-135m-instruct", "Cloud")
    own = Model("`flash-tiny`, bf16 (`Cloud`)", "builtin://flash-tiny", "Cloud")
    served = Model("`flash-tiny`, int8 (`Lite`)", "builtin://flash-tiny", "Lite")
    small = Model("`flash-tiny`, int4 (`Nano`)", "builtin://flash-tiny", "Nano")
    draft = Model("`flash-tiny-draft`, int8", "builtin://flash-tiny-draft", "Lite")
    others = [own, served, small, draft]
    if options.carved is not None:
        others.insert(0, Model("carved, not trained, bf16", options.carved.absolute().as_uri(), "Cloud"))
    providers = {model.label: bench.provider(model) for model in others}
    asked = bench.prompts(options.questions)
    answered = {kind: bench.answers(teacher, lines, options.answer_tokens) for kind, lines in asked.items()}
    scores: dict[str, dict[str | None, Score]] = {}
    for kind in _KINDS:
        scores[kind] = evaluate(bench.provider(teacher), providers, bench.windows(kind))
        _tell(kind, {name: round(score.perplexity, 2) for name, score in scores[kind].items()})
    said = [
        ids[:length]
        for lessons in answered.values()
        for ids, length in zip(lessons.token_ids, lessons.lengths, strict=True)
    ]
    scores["chat"] = evaluate(bench.provider(teacher), providers, said)
    _tell("chat", {name: round(score.perplexity, 2) for name, score in scores["chat"].items()})
    experts = _experts(bench, served, providers[served.label])
    accepted = _accepted(bench, draft, teacher, answered)
    own_answers = {kind: bench.answers(served, lines, options.answer_tokens) for kind, lines in asked.items()}
    accepted = [*_accepted(bench, draft, served, own_answers), *accepted]
    samples = _samples(bench, [teacher, *others])
    sizes = f"{options.windows} windows of {_WINDOW} tokens of each kind of text, {len(said)} chats"
    parts = [
        f"Measured on {sizes}:",
        _table(teacher, others, scores),
        _formats(scores, own, [served, small]),
        experts,
        _acceptance(accepted),
        *(["![Perplexity by model, and what the draft yields](models.svg)"] if _plot(others, scores, accepted) else []),
        samples,
    ]
    _write("\n\n".join(parts))


def _tell(what: str, figures: object) -> None:
    print(what, figures, file=sys.stderr, flush=True)


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


def _formats(scores: Mapping[str, Mapping[str | None, Score]], own: Model, others: Sequence[Model]) -> str:
    """What rounding costs, beside the same weights in bf16."""

    def cost(model: Model) -> str:
        found = (scores[kind][model.label].perplexity / scores[kind][own.label].perplexity - 1 for kind in scores)
        return f"{model.label} " + " / ".join(f"{one:+.1%}" for one in found)

    return f"Perplexity over its own bf16, {' / '.join(scores)}: " + "; ".join(cost(model) for model in others) + "."


def _experts(bench: Bench, model: Model, provider: CpuProvider) -> str:
    _, plan = open_packed(bench.path(model))
    counts = provider.expert_load()
    assert counts is not None
    loads = layer_loads(counts, plan)
    most, least = max(load.skew for load in loads), min(min(load.shares) for load in loads)
    mean_most = sum(load.skew for load in loads) / len(loads)
    mean_least = sum(min(load.shares) for load in loads) / len(loads)
    dead = sum(len(load.dead) for load in loads)
    active = [_active(layer.mlp) for layer in plan.layers]
    return (
        f"A token passes {_share([one for one in active if one[0] < one[1]]):.0%} of the features of a sparse layer's "
        f"FFN, {_share(active):.0%} of all FFN features of the model. Experts of `flash-tiny` over the same text: "
        f"averaged over its layers, the busiest sees {mean_most:.2f} times the layer's mean, the idlest "
        f"{mean_least:.2f} times; at the extremes {most:.2f} and {least:.2f} times. "
        f"{dead} of {sum(len(load.tokens) for load in loads)} are dead."
    )


def _active(mlp: DenseMlp | MoeMlp) -> tuple[int, int]:
    """Inner features that a token passes, and those there are."""
    if isinstance(mlp, DenseMlp):
        return mlp.width, mlp.width
    shared = 0 if mlp.shared is None else mlp.shared.width
    return shared + mlp.top_k * mlp.width, shared + mlp.num_experts * mlp.width


def _share(active: Sequence[tuple[int, int]]) -> float:
    return sum(one for one, _ in active) / sum(whole for _, whole in active)


def _accepted(bench: Bench, draft: Model, target: Model, answered: Mapping[str, Lessons]) -> list[Accepted]:
    """Over the target's own greedy answers, where a draft token is accepted exactly when it is the next one."""
    proposer, found = bench.provider(draft), []
    everything: list[Hits] = []
    for kind, answers in answered.items():
        hits: list[Hits] = []
        for ids, length, prompt in zip(answers.token_ids, answers.lengths, answers.prompts, strict=True):
            best = Run(proposer).feed(ids[:length]).argmax(axis=1)
            hits.append(best[prompt - 1 : length - 1] == ids[prompt:length])
        everything += hits
        found.append(_accepted_of(target, kind, hits))
    return [_accepted_of(target, "all", everything), *found]


def _accepted_of(target: Model, kind: str, hits: Sequence[Hits]) -> Accepted:
    steps = tuple(_tokens_per_step(hits, lookahead) for lookahead in _LOOKAHEADS)
    return Accepted(target.label, kind, float(np.concatenate(hits).mean()), steps)


def _acceptance(accepted: Sequence[Accepted]) -> str:
    lookaheads = " / ".join(map(str, _LOOKAHEADS))
    lines = [
        f"| the draft on greedy answers of | to | greedy match | tokens for each step, by lookahead {lookaheads} |",
        "|---|---|---|---|",
    ]
    for one in accepted:
        lengths = " / ".join(f"{length:.2f}" for length in one.tokens_per_step)
        lines.append(f"| {one.target} | {one.kind} | {one.match:.2f} | {lengths} |")
    return "\n".join(lines)


def _tokens_per_step(hits: Sequence[Hits], lookahead: int) -> float:
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
    lines = [f"Greedy answers, cut at {_SAMPLE_TOKENS} tokens:", ""]
    for model in models:
        answers = bench.answers(model, _SAMPLES, 48 + _SAMPLE_TOKENS)
        found = {}
        for ids, length, prompt in zip(answers.token_ids, answers.lengths, answers.prompts, strict=True):
            asked = bench.tokenizer.decode(ids[:prompt].tolist())
            found[asked] = bench.tokenizer.decode(ids[prompt : min(length, prompt + _SAMPLE_TOKENS)].tolist())
        for question in _SAMPLES:
            answer = next(text for asked, text in found.items() if question in asked)
            lines.append(f"- {model.label}: *{question}* " + " ".join(answer.split()))
    return "\n".join(lines)


def _plot(
    models: Sequence[Model], scores: Mapping[str, Mapping[str | None, Score]], accepted: Sequence[Accepted]
) -> bool:
    """Two panels in one SVG; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        _tell("plot", "left out: matplotlib is not installed")
        return False
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "models"
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = list(scores)
    width = 0.8 / (len(models) + 1)
    for place, label in enumerate([None, *(model.label for model in models)]):
        heights = [scores[kind][label].perplexity for kind in kinds]
        at = [index + (place - len(models) / 2) * width for index in range(len(kinds))]
        left.bar(at, heights, width, label="the teacher, bf16" if label is None else label.replace("`", ""))
    left.set_xticks(range(len(kinds)), kinds)
    left.set_yscale("log")
    left.set_ylabel("perplexity")
    left.legend(fontsize=7)
    for one in accepted:
        if one.target == accepted[0].target:
            label = f"{one.kind} (match {one.match:.2f})"
            right.plot(
                _LOOKAHEADS, one.tokens_per_step, marker="o", linewidth=2 if one.kind == "all" else 1, label=label
            )
    right.set_xlabel("lookahead")
    right.set_ylabel("tokens for each step of flash-tiny")
    right.set_ylim(bottom=1)
    right.grid(visible=True, alpha=0.3)
    right.legend(fontsize=7)
    figure.savefig(PLOT, metadata={"Date": None})
    return True


def _write(measured: str) -> None:
    page = PAGE.read_text()
    before, rest = page.split(_MARKS[0])
    _, after = rest.split(_MARKS[1])
    PAGE.write_text(f"{before}{_MARKS[0]}\n{measured}\n{_MARKS[1]}{after}")
    print(measured)


if __name__ == "__main__":
    main()
