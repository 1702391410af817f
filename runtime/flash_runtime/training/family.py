"""Follows a recipe: lessons, carving, distilling, finish, draft; each once, and what it made lies in the output folder.

A second run finds what is done and goes on with the rest. Torch is imported only for the stages that need it.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile, is_zipfile

import numpy as np

from flash_runtime.engine.batch import IntArray
from flash_runtime.model.cache import Cache, file_sha256, place
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.derived import Carving, Derivation
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull_into_cache
from flash_runtime.model.shipped import BASE, DIFFERENCE
from flash_runtime.model.sources import Source
from flash_runtime.text.assets import TextAssets
from flash_runtime.text.chat import ChatTemplate, Message
from flash_runtime.text.tokenizer import Tokenizer
from flash_runtime.training.carve import CarvedLayer
from flash_runtime.training.carving import carve_layers
from flash_runtime.training.config import Distil, FamilyRecipe, Finish, RecipeError
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.ship import write_carved, write_draft
from flash_runtime.training.teacher import Lessons, read_lessons, write_lessons

if TYPE_CHECKING:
    from flash_runtime.training.network import Decoder

_NO_DATE: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Templates may write today's date; lessons must not change with it."""
_TEMPERATURES: Final = (0.0, 0.7, 0.9)
_CALIBRATION_WINDOW: Final = 256

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told a stage's name and figures."""


@dataclass(frozen=True)
class Made:
    """Folders to serve from; None = not asked for."""

    student: Path | None
    draft: Path | None


class Family:
    """One recipe on its way."""

    def __init__(
        self, recipe: FamilyRecipe, source: Source, *, cache: Cache, progress: ProgressReporter, tell: Tell
    ) -> None:
        """Raises ModelError for a teacher that cannot be read, RecipeError for one that cannot be cut so."""
        self._recipe = recipe
        self._tell = tell
        self._teacher_path = source.locate(cache, progress)
        if not self._teacher_path.is_file():
            raise RecipeError(f"teacher ({recipe.teacher}): a folder; this release makes families from one GGUF file")
        self._teacher: Checkpoint = open_checkpoint(self._teacher_path)
        if recipe.carve is not None:
            try:
                self._layout().check(self._teacher.config.mlp_width)
            except ValueError as error:
                raise RecipeError(f"carve: {error}") from error
        packed = PullRequest(source, "Lite", recipe.output)
        self._packed = pull_into_cache(packed, cache=cache, progress=progress)
        self._assets = TextAssets.from_packed(self._packed)
        self._tokenizer = Tokenizer(self._assets)
        recipe.output.mkdir(parents=True, exist_ok=True)

    def make(self) -> Made:
        """Do what is left of every stage."""
        recipe = self._recipe
        if recipe.distil is not None or recipe.draft is not None:
            import torch

            if recipe.threads is not None:
                torch.set_num_threads(recipe.threads)
        student = None if recipe.carve is None else self._student()
        return Made(student, None if recipe.draft is None else self._draft())

    def _student(self) -> Path:
        recipe, layers, tokens = self._recipe, self._carved(), 0
        if recipe.distil is not None:
            layers, tokens = self._distilled(layers, recipe.distil)
            if recipe.finish is not None:
                layers, more = self._finished(layers, recipe.finish, whole=recipe.distil.whole, distilled=tokens)
                tokens += more
        facts = self._facts("carved", recipe.name, tokens, carving=self._carving())
        folder = self._folder("student")
        write_carved(folder / DIFFERENCE, facts, self._teacher, layers)
        return folder

    def _distilled(self, layers: Mapping[int, CarvedLayer], wanted: Distil) -> tuple[dict[int, CarvedLayer], int]:
        """The layers as training leaves them, and the tokens it took."""
        from flash_runtime.training.distil import Weights, distil
        from flash_runtime.training.loop import Pace
        from flash_runtime.training.weights import carved_of, decoder_of, shape_of

        recipe, student, shape = self._recipe, self._learner(layers, whole=wanted.whole), shape_of(self._teacher)
        asked = wanted.hidden > 0 or wanted.attention > 0
        tokens = distil(
            student,
            decoder_of(self._teacher, shape, range(shape.layers)) if asked else None,
            self._lessons(wanted.answers_share),
            Pace(wanted.steps, wanted.learning_rate),
            recipe.output / "distil",
            batch=wanted.batch,
            seed=recipe.seed,
            tell=lambda entry: self._tell("distil", entry),
            weights=Weights(wanted.logits, wanted.hidden, wanted.attention, wanted.balance),
            made_for=self._made_for(carve=str(self._carving()), whole=str(wanted.whole)),
        )
        return carved_of(student, layers), tokens

    def _finished(
        self, layers: Mapping[int, CarvedLayer], wanted: Finish, *, whole: bool, distilled: int
    ) -> tuple[dict[int, CarvedLayer], int]:
        """Distilled layers, used to the engine's number formats, and the tokens that took."""
        from flash_runtime.kernels.layout import LinearFormat
        from flash_runtime.training.distil import Weights
        from flash_runtime.training.finish import finish
        from flash_runtime.training.loop import Pace
        from flash_runtime.training.weights import carved_of

        recipe, student = self._recipe, self._learner(layers, whole=whole)
        tokens = finish(
            student,
            self._lessons(wanted.answers_share),
            Pace(wanted.steps, wanted.learning_rate),
            recipe.output / "finish",
            formats=[LinearFormat(format) for format in wanted.formats],
            batch=wanted.batch,
            seed=recipe.seed,
            tell=lambda entry: self._tell("finish", entry),
            weights=Weights(hidden=0, attention=0, balance=wanted.balance),
            made_for=self._made_for(
                carve=str(self._carving()), whole=str(whole), formats=" ".join(wanted.formats), distilled=str(distilled)
            ),
        )
        return carved_of(student, layers), tokens

    def _learner(self, layers: Mapping[int, CarvedLayer], *, whole: bool) -> Decoder:
        """The teacher with these layers in place of its own."""
        from flash_runtime.training.distil import place
        from flash_runtime.training.weights import decoder_of, shape_of

        shape = replace(shape_of(self._teacher), sparse=self._layout(), dense_layers=self._dense_layers())
        student = decoder_of(self._teacher, shape, range(shape.layers))
        place(student, layers, whole=whole)
        return student

    def _draft(self) -> Path:
        from flash_runtime.training.draft import train_draft
        from flash_runtime.training.loop import Pace
        from flash_runtime.training.weights import decoder_of, shape_of

        recipe, wanted = self._recipe, self._recipe.draft
        assert wanted is not None
        draft = decoder_of(self._teacher, replace(shape_of(self._teacher), layers=len(wanted.layers)), wanted.layers)
        tokens = train_draft(
            draft,
            self._lessons(wanted.answers_share),
            Pace(wanted.steps, wanted.learning_rate),
            recipe.output / "draft-run",
            batch=wanted.batch,
            seed=recipe.seed,
            tell=lambda entry: self._tell("draft", entry),
            made_for=self._made_for(layers=str(wanted.layers)),
        )
        facts = self._facts("draft", f"{recipe.name}-draft", tokens, layers=len(wanted.layers))
        folder = self._folder("draft")
        write_draft(folder / DIFFERENCE, facts, draft_weights(draft))
        return folder

    def _carved(self) -> dict[int, CarvedLayer]:
        path, wanted = self._recipe.output / "carved.npz", self._recipe.carve
        assert wanted is not None
        if not path.is_file():
            length = min(_CALIBRATION_WINDOW, self._teacher.config.max_context_tokens)
            windows = list(self._windows(length, max(1, wanted.tokens // length)))
            layers = carve_layers(
                self._teacher,
                windows,
                self._layout(),
                dense_layers=wanted.dense_layers,
                on_layer=lambda index: self._tell("carve", {"layer": index}),
                seed=self._recipe.seed,
            )
            save_layers(path, layers)
        return load_layers(path)

    def _lessons(self, answers_share: float) -> list[tuple[Lessons, float]]:
        """What the teacher writes and what it thinks of text."""
        from flash_runtime.model.opened import native_provider

        text = self._recipe.text
        provider = native_provider(self._packed, cached_tokens=32 * max(text.answer_tokens, text.window_tokens))
        found: list[tuple[Lessons, float]] = []
        if text.prompts is not None:
            prompts = self._prompts(text.prompts)
            answers = self._once(
                "answers",
                lambda: write_lessons(
                    provider,
                    prompts,
                    length=text.answer_tokens,
                    end_tokens=self._assets.header.eos_token_ids,
                    temperatures=_TEMPERATURES,
                    seed=self._recipe.seed,
                    on_tokens=lambda count: self._tell("answers", {"tokens": count}),
                ),
            )
            found.append((answers, answers_share))
        windows = list(self._windows(text.window_tokens, max(1, text.read_tokens // text.window_tokens)))
        read = self._once(
            "text",
            lambda: read_lessons(provider, windows, on_tokens=lambda count: self._tell("text", {"tokens": count})),
        )
        found.append((read, 1 - answers_share if found else 1.0))
        return [(lessons, share) for lessons, share in found if share > 0]

    def _once(self, name: str, make: Callable[[], Lessons]) -> Lessons:
        path = self._recipe.output / f"{name}.npz"
        if not path.is_file():
            temporary = path.with_suffix(".partial.npz")
            np.savez(temporary, **vars(make()))
            temporary.replace(path)
        with _arrays(path) as arrays:
            return Lessons(**arrays)

    def _prompts(self, path: Path) -> list[IntArray]:
        template = ChatTemplate(self._assets.header, self._tokenizer, now=lambda: _NO_DATE)
        if not template.exists:
            raise RecipeError(f"text.prompts ({path}): the teacher has no chat form, leave it out")
        lines = _lines(path)[: self._recipe.text.max_prompts]
        return [np.array(template.encode([Message("user", line)]), dtype=np.int32) for line in lines]

    def _windows(self, length: int, count: int) -> IntArray:
        """Pieces of all files [count, length], in an order that follows from the seed; again from the start if few."""
        end = self._assets.header.eos_token_ids[0]
        order = np.random.default_rng(self._recipe.seed)
        texts = [line for file in self._recipe.text.files for line in _lines(file)]
        ids: list[int] = []
        for index in order.permutation(len(texts)):
            ids += [*self._tokenizer.encode(texts[index]), end]
            if len(ids) >= length * count:
                break
        found = len(ids) // length
        if found == 0:
            raise RecipeError(f"text.files: {len(ids)} tokens in all, one window needs {length}: give more text")
        return np.array(ids[: found * length], dtype=np.int32).reshape(found, length)

    def _layout(self) -> ExpertLayout:
        wanted = self._recipe.carve
        assert wanted is not None
        return ExpertLayout(wanted.shared_width, wanted.experts, wanted.expert_width, wanted.top_k)

    def _dense_layers(self) -> tuple[int, ...]:
        assert self._recipe.carve is not None
        return tuple(sorted(set(self._recipe.carve.dense_layers)))

    def _carving(self) -> Carving:
        return Carving(**vars(self._layout()), dense_layers=self._dense_layers())

    def _folder(self, name: str) -> Path:
        """What a derived checkpoint needs, but for the difference."""
        folder = self._recipe.output / name
        folder.mkdir(exist_ok=True)
        place(self._teacher_path, folder / BASE)
        return folder

    def _facts(self, kind: str, name: str, tokens: int, **facts: Any) -> Derivation:
        return Derivation.model_validate(
            {
                "format": 1,
                "kind": kind,
                "name": name,
                "base": self._teacher.about.name,
                "base_sha256": file_sha256(self._teacher_path),
                "trained_tokens": tokens,
                "provenance": self._provenance(),
                **facts,
            }
        )

    def _made_for(self, **facts: str) -> dict[str, str]:
        """What a stage's checkpoints belong to: all that must not change before it goes on."""
        texts = {name: digest for name, digest in self._provenance().items() if name.startswith("text ")}
        return {"teacher": file_sha256(self._teacher_path), "seed": str(self._recipe.seed), **texts, **facts}

    def _provenance(self) -> dict[str, str]:
        text = self._recipe.text
        files = [*text.files, *([] if text.prompts is None else [text.prompts])]
        packages = ["numpy"] if self._recipe.distil is None and self._recipe.draft is None else ["numpy", "torch"]
        return {
            "seed": str(self._recipe.seed),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
            **{f"text {file.name}": file_sha256(file) for file in files},
        }


def draft_weights(draft: Decoder) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """A draft's weights by their Hugging Face names."""
    return {f"model.{name}": value.detach().float().numpy() for name, value in draft.state_dict().items()}


def save_layers(path: Path, layers: Mapping[int, CarvedLayer]) -> None:
    """Write carved layers as one file."""
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, **{f"{i}.{name}": array for i, one in layers.items() for name, array in vars(one).items()})
    temporary.replace(path)


def load_layers(path: Path) -> dict[int, CarvedLayer]:
    """What `save_layers` wrote; raises CheckpointError for a damaged file."""
    with _arrays(path) as arrays:
        indices = sorted({int(name.split(".")[0]) for name in arrays})
        return {i: CarvedLayer(*(arrays[f"{i}.{name}"] for name in ("order", "router", "down"))) for i in indices}


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """A file of arrays that an earlier run left."""
    try:
        if not is_zipfile(path):  # asked first: a reader that fails half-way complains again when it is collected
            raise BadZipFile("cut off, or no archive")
        with np.load(path) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise CheckpointError(
            f"{path}: not a readable file of arrays ({error!r:.120}); delete it to have its stage done again"
        ) from error


def _lines(path: Path) -> Sequence[str]:
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a file of JSON lines ({error})") from error
    if not all(isinstance(line, str) for line in found):
        raise RecipeError(f"{path}: every line must be one JSON string")
    return found
