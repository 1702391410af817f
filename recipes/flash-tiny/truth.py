"""What flash-tiny and its draft are worth, measured and written to docs/models.md.

    python recipes/flash-tiny/truth.py TEXTS [--carved FOLDER]

TEXTS is the folder that texts.py filled; only its held-out passages are read. Every model runs in the native engine, so
the figures are of what is served. `--carved` is a student before it was trained, made by `flash distill` from a recipe
without `distil`. The plot (docs/models.svg) needs matplotlib, of extra `train`. What is measured already lies in a file
(`--kept`), from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from truth_page import LOOKAHEADS, Accepted, Model, acceptance, formats, plot, table, tell, write

from flash_runtime.engine.batch import IntArray
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.cache import Cache, default_root, file_sha256
from flash_runtime.model.evaluate import Score, evaluate
from flash_runtime.model.expert_load import layer_loads
from flash_runtime.model.opened import native_provider, open_packed
from flash_runtime.model.plan import DenseMlp, MoeMlp
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull_into_cache
from flash_runtime.model.sequence import Sequence as Run
from flash_runtime.model.shipped import DIFFERENCE, SHIPPED
from flash_runtime.model.sources import open_source
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.training.teacher import write_lessons

Hits = np.ndarray[Any, np.dtype[np.bool_]]
"""Whether each token of an answer was foreseen."""
_WINDOW: Final = 256
_KINDS: Final = ("wiki", "dictionary", "essay")
_SAMPLES: Final = ("What is bread?", "Tell me about the moon.")
_SAMPLE_TOKENS: Final = 40
_ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "questions": ("What is", "What are", "Explain", "Why does", "How would you explain", "Tell me about"),
    "texts to write": ("Write a short story", "Write a short email", "Write a paragraph", "Can you write a poem"),
    "lists and advice": ("Give me three", "List five", "Summarize", "How do I use", "I want to learn"),
    "code": ("Write a Python",),
}
"""How the questions of texts.py begin, by kind."""


class Kept:
    """Figures by name, in a file of JSON from which an interrupted run goes on."""

    def __init__(self, path: Path, about: str) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"about": about}
        if self._found["about"] != about:
            raise SystemExit(f"{path}: is of another run ({self._found['about']}); delete it, or name another --kept")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The figures of that name; measured where there are none."""
        if name not in self._found:
            started = time.monotonic()
            self._found[name] = make()
            self._path.write_text(json.dumps(self._found))
            tell(f"{time.monotonic() - started:.1f} s:", name[:100])
        return self._found[name]

    def scores(self, name: str, make: Callable[[], Any]) -> dict[str | None, Score]:
        """The same for what models score on one kind of text."""
        return {model: Score(**score) for model, score in self.once(name, make)}


@dataclass(frozen=True)
class Answer:
    """A question and its answer."""

    ids: IntArray
    prompt: int
    """Tokens of the question."""


class Bench:
    """Models and text."""

    def __init__(self, texts: Path, windows: int, kept: Kept) -> None:
        self._texts = texts
        self._windows = windows
        self._kept = kept
        self._providers: dict[tuple[str, str], CpuProvider] = {}
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

    def provider(self, model: Model) -> CpuProvider:
        """One of each model, with room for a few sequences."""
        key = model.uri, model.variant
        if key not in self._providers:
            self._providers[key] = native_provider(self.path(model), cached_tokens=16 * _WINDOW)
        return self._providers[key]

    def windows(self, kind: str) -> list[IntArray]:
        """Held-out text of one kind."""
        ids: list[int] = []
        for line in (self._texts / f"{kind}.held-out.jsonl").read_text().splitlines():
            ids += [*self.tokenizer.encode(json.loads(line)), self.assets.header.eos_token_ids[0]]
        starts = [index * (len(ids) - _WINDOW) // self._windows for index in range(self._windows)]
        return [np.array(ids[start : start + _WINDOW], dtype=np.int32) for start in starts]

    def answers(self, model: Model, prompts: Sequence[str], tokens: int) -> list[Answer]:
        """What the model answers greedily; a question and its answer are cut at so many tokens together."""
        found = self._kept.once(f"answers {model.label} {prompts}", lambda: self._answered(model, prompts, tokens))
        return [Answer(np.array(one["ids"], np.int32), one["prompt"]) for one in found]

    def _answered(self, model: Model, prompts: Sequence[str], tokens: int) -> list[dict[str, Any]]:
        template = ChatTemplate(self.assets.header, self.tokenizer, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        lessons = write_lessons(
            self.provider(model),
            [np.array(template.encode([Message("user", prompt)]), dtype=np.int32) for prompt in prompts],
            length=tokens,
            end_tokens=self.assets.header.eos_token_ids,
            temperatures=(0.0,),
            seed=0,
            on_tokens=lambda count: None,
        )
        whole = zip(lessons.token_ids, lessons.lengths, lessons.prompts, strict=True)
        return [{"ids": ids[:length].tolist(), "prompt": int(prompt)} for ids, length, prompt in whole]

    def prompts(self, count: int) -> dict[str, list[str]]:
        """Held-out questions, so many of each kind."""
        lines = [json.loads(line) for line in (self._texts / "prompts.held-out.jsonl").read_text().splitlines()]
        return {kind: [line for line in lines if line.startswith(begin)][:count] for kind, begin in _ASKED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--carved", type=Path)
    parser.add_argument("--windows", type=int, default=10, help=f"windows of {_WINDOW} tokens of each kind of text")
    parser.add_argument("--questions", type=int, default=6, help="questions of each kind that are answered")
    parser.add_argument("--answer-tokens", type=int, default=192, help="tokens of a question and its answer together")
    parser.add_argument("--kept", type=Path, help="file of what is measured already (TEXTS/truth.json)")
    options = parser.parse_args()
    about = [f"{name} {shipped.sha256}" for name, shipped in SHIPPED.items()]
    about += [f"{name} {value}" for name, value in vars(options).items() if name not in ("texts", "kept", "carved")]
    kept = Kept(options.kept or options.texts / "truth.json", ", ".join(about))
    bench = Bench(options.texts, options.windows, kept)
    teacher = Model("SmolLM2-135M-Instruct, the teacher", "builtin://smollm2-135m-instruct", "Cloud")
    own = Model("`flash-tiny`, bf16 (`Cloud`)", "builtin://flash-tiny", "Cloud")
    served = Model("`flash-tiny`, int8 (`Lite`)", "builtin://flash-tiny", "Lite")
    small = Model("`flash-tiny`, int4 (`Nano`)", "builtin://flash-tiny", "Nano")
    draft = Model("`flash-tiny-draft`, int8", "builtin://flash-tiny-draft", "Lite")
    made, carved = [own, served, small, draft], []
    if options.carved is not None:
        carved = [Model("carved, not trained, bf16", options.carved.absolute().as_uri(), "Cloud")]
    others = [*carved, *made]
    asked = bench.prompts(options.questions)
    answered = {kind: bench.answers(teacher, lines, options.answer_tokens) for kind, lines in asked.items()}
    windows = {kind: bench.windows(kind) for kind in _KINDS}
    windows["chat"] = [answer.ids for answers in answered.values() for answer in answers]
    scores = {}
    for kind, found in windows.items():
        scores[kind] = kept.scores(f"scores {kind}", partial(_scores, bench, teacher, made, found))
        if carved:
            digest = file_sha256(options.carved / DIFFERENCE)
            scores[kind] |= kept.scores(f"scores {kind} {digest}", partial(_scores, bench, teacher, carved, found))
    experts = kept.once("experts", lambda: _experts(bench, served, windows))
    own_answers = {kind: bench.answers(served, lines, options.answer_tokens) for kind, lines in asked.items()}
    accepted = [
        Accepted(**one)
        for target, found in ((served, own_answers), (teacher, answered))
        for one in kept.once(f"accepted {target.label}", partial(_accepted, bench, draft, target, found))
    ]
    samples = _samples(bench, [teacher, *others])
    sizes = f"{options.windows} windows of {_WINDOW} tokens of each kind of text, {len(windows['chat'])} chats"
    parts = [
        f"Measured on {sizes}:",
        table(teacher, others, scores),
        formats(scores, own, [served, small]),
        experts,
        acceptance(accepted),
        *(["![Perplexity by model, and what the draft yields](models.svg)"] if plot(others, scores, accepted) else []),
        samples,
    ]
    write("\n\n".join(parts))


def _scores(
    bench: Bench, teacher: Model, others: Sequence[Model], windows: Sequence[IntArray]
) -> list[tuple[str | None, dict[str, Any]]]:
    """Of every model on one kind of text, the teacher's under None."""
    providers = {model.label: bench.provider(model) for model in others}
    found = evaluate(bench.provider(teacher), providers, windows)
    return [(name, asdict(score)) for name, score in found.items()]


def _experts(bench: Bench, model: Model, windows: Mapping[str, Sequence[IntArray]]) -> str:
    path = bench.path(model)
    _, plan = open_packed(path)
    provider = native_provider(path, cached_tokens=_WINDOW)
    for window in (window for found in windows.values() for window in found):
        Run(provider).feed(window)
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


def _accepted(
    bench: Bench, draft: Model, target: Model, answered: Mapping[str, Sequence[Answer]]
) -> list[dict[str, Any]]:
    """Over the target's own greedy answers, where a draft token is accepted exactly when it is the next one."""
    proposer, found = bench.provider(draft), []
    everything: list[Hits] = []
    for kind, answers in answered.items():
        hits: list[Hits] = []
        for answer in answers:
            best = Run(proposer).feed(answer.ids).argmax(axis=1)
            hits.append(best[answer.prompt - 1 : -1] == answer.ids[answer.prompt :])
        everything += hits
        found.append(_accepted_of(target, kind, hits))
    return [asdict(one) for one in (_accepted_of(target, "all", everything), *found)]


def _accepted_of(target: Model, kind: str, hits: Sequence[Hits]) -> Accepted:
    steps = tuple(_tokens_per_step(hits, lookahead) for lookahead in LOOKAHEADS)
    return Accepted(target.label, kind, float(np.concatenate(hits).mean()), steps)


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
        for answer in answers:
            asked, said = answer.ids[: answer.prompt], answer.ids[answer.prompt :][:_SAMPLE_TOKENS]
            found[bench.tokenizer.decode(asked.tolist())] = bench.tokenizer.decode(said.tolist())
        for question in _SAMPLES:
            text = next(text for asked, text in found.items() if question in asked)
            lines.append(f"- {model.label}: *{question}* " + " ".join(text.split()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
