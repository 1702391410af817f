"""The stages that need torch, on toy models: `make parity`. Elsewhere they are skipped."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed (extra `train`)", allow_module_level=True)

from dataclasses import replace

import torch
from tiny_gguf import write_gguf

from flash_runtime.model.cache import Cache
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.derived import DerivedCheckpoint
from flash_runtime.model.families import recipe
from flash_runtime.model.opened import native_provider, open_packed
from flash_runtime.model.pack import pack
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider
from flash_runtime.model.sequence import Sequence
from flash_runtime.model.sources import parse_source
from flash_runtime.training.carving import carve_layers
from flash_runtime.training.config import read_recipe
from flash_runtime.training.distil import Weights, distil, losses, place
from flash_runtime.training.draft import greedy_match, train_draft
from flash_runtime.training.family import Family
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.loop import Pace
from flash_runtime.training.network import Decoder
from flash_runtime.training.teacher import KEPT, Lessons
from flash_runtime.training.weights import decoder_of, shape_of

LAYOUT = ExpertLayout(shared_width=64, experts=6, expert_width=16, top_k=2)
WINDOWS = np.random.default_rng(1).integers(0, 256, size=(24, 16), dtype=np.int32)
PACE = Pace(steps=12, learning_rate=2e-3)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": True}))


def whole(checkpoint: Checkpoint) -> Decoder:
    shape = shape_of(checkpoint)
    return decoder_of(checkpoint, shape, range(shape.layers))


def student(checkpoint: Checkpoint, layout: ExpertLayout = LAYOUT) -> Decoder:
    shape = replace(shape_of(checkpoint), sparse=layout, dense_layers=(0,))
    decoder = decoder_of(checkpoint, shape, range(shape.layers))
    place(decoder, carve_layers(checkpoint, list(WINDOWS), layout, dense_layers=(0,)))
    return decoder


def draft(checkpoint: Checkpoint) -> Decoder:
    return decoder_of(checkpoint, replace(shape_of(checkpoint), layers=1), [2])


def lessons(checkpoint: Checkpoint) -> Lessons:
    decoder = whole(checkpoint)
    with torch.no_grad():
        scores = decoder(torch.from_numpy(WINDOWS).long()).final @ decoder.embedding.T
    top = scores.log_softmax(dim=-1).topk(KEPT, dim=-1)
    count, length = WINDOWS.shape
    return Lessons(
        WINDOWS,
        np.full(count, length, np.int32),
        np.zeros(count, np.int32),
        top.indices.numpy().astype(np.int32),
        top.values.numpy().astype(np.float16),
    )


def test_the_decoder_computes_what_the_reference_does(teacher: Checkpoint) -> None:
    found = recipe(teacher)
    provider = ReferenceProvider(found.plan, CheckpointWeights(teacher, found), num_blocks=1, block_size=64)
    expected = Sequence(provider).feed(WINDOWS[0])

    decoder = whole(teacher)
    with torch.no_grad():
        logits = decoder(torch.from_numpy(WINDOWS[:1]).long()).final[0] @ decoder.embedding.T

    assert np.abs(logits.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_student_with_all_experts_active_has_nothing_to_learn(teacher: Checkpoint) -> None:
    everything = student(teacher, replace(LAYOUT, top_k=LAYOUT.experts))

    _, figures = losses(everything, whole(teacher), lessons(teacher), torch.arange(264), Weights())

    assert figures["hidden"] < 1e-6
    assert figures["attention"] < 1e-6


def test_distilling_brings_the_student_nearer_to_its_teacher(teacher: Checkpoint, tmp_path: Path) -> None:
    learner, told = student(teacher), []

    seen = distil(
        learner,
        whole(teacher),
        [(lessons(teacher), 1.0)],
        Pace(60, 1e-3),
        tmp_path / "run",
        batch=8,
        seed=1,
        tell=told.append,
    )

    assert seen == 60 * 8 * 16
    for name in ("logits", "loss"):
        assert np.mean([entry[name] for entry in told[-9:]]) < 0.95 * np.mean([entry[name] for entry in told[:3]])


def test_a_draft_learns_to_foresee_its_teacher(teacher: Checkpoint, tmp_path: Path) -> None:
    learner, taught = draft(teacher), lessons(teacher)
    before = greedy_match(learner, taught)

    train_draft(learner, [(taught, 1.0)], Pace(120, 3e-3), tmp_path / "run", batch=8, seed=1, tell=lambda entry: None)

    assert greedy_match(learner, taught) > before + 0.2


@pytest.mark.parametrize("stage", ["draft", "student"])
def test_a_resumed_run_equals_an_uninterrupted_one(teacher: Checkpoint, tmp_path: Path, stage: str) -> None:
    def run(folder: Path, *stops: int | None) -> dict[str, torch.Tensor]:
        learner = draft(teacher)
        for stop in stops:
            learner = draft(teacher) if stage == "draft" else student(teacher)
            if stage == "draft":
                train_draft(
                    learner,
                    [(lessons(teacher), 1.0)],
                    PACE,
                    folder,
                    batch=4,
                    seed=1,
                    tell=lambda entry: None,
                    stop_at=stop,
                )
            else:
                distil(
                    learner,
                    whole(teacher),
                    [(lessons(teacher), 1.0)],
                    PACE,
                    folder,
                    batch=4,
                    seed=1,
                    tell=lambda entry: None,
                    stop_at=stop,
                )
        return learner.state_dict()

    straight, resumed = run(tmp_path / "straight", None), run(tmp_path / "resumed", 5, None)

    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_embedding_and_attention_stay_the_teachers(teacher: Checkpoint, tmp_path: Path) -> None:
    learner, own = student(teacher), whole(teacher).state_dict()

    before = {name: value.clone() for name, value in learner.state_dict().items()}
    taught = [(lessons(teacher), 1.0)]

    distil(learner, None, taught, PACE, tmp_path / "run", batch=4, seed=1, tell=lambda entry: None)

    changed = {name for name, value in learner.state_dict().items() if not torch.equal(value.float(), before[name])}
    layers = ("layers.1.mlp", "layers.2.mlp")
    trained = {f"{layer}.{part}.weight" for layer in layers for part in ("down_proj", "router")}
    assert trained <= changed
    # What is not trained is only rounded to the format that it is multiplied in.
    assert all(
        torch.allclose(learner.state_dict()[name].float(), own[name], rtol=0.01)
        for name in own.keys() - trained
        if "mlp" not in name or "layers.0" in name
    )


def test_a_recipe_makes_a_student_and_a_draft_that_the_engine_runs(tmp_path: Path) -> None:
    write_gguf(tmp_path / "teacher.gguf", "llama", shape={"tie_word_embeddings": True})
    lines = [f"Passage number {index} about the sea and the number {index * 7}." for index in range(40)]
    for name in ("text", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {
        "name": "toy",
        "teacher": "teacher.gguf",
        "output": "made",
        "text": {"files": ["text.jsonl"], "prompts": "prompts.jsonl", "window_tokens": 16, "read_tokens": 400},
        "carve": {**vars(LAYOUT), "dense_layers": [0], "tokens": 600},
        "distil": {"steps": 3, "batch": 4, "whole": True},
        "finish": {"steps": 2, "batch": 4},
        "draft": {"layers": [0, 2], "steps": 3, "batch": 4},
    }
    fields["text"] |= {"answer_tokens": 96, "max_prompts": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    recipe = read_recipe(tmp_path / "recipe.yaml")
    source = parse_source(Path(recipe.teacher).as_uri(), revision=None, pip_download=lambda *arguments: None)
    progress, told = ProgressReporter(io.StringIO(), None), []

    family = Family(
        recipe,
        source,
        cache=Cache(tmp_path / "cache"),
        progress=progress,
        tell=lambda stage, figures: told.append(stage),
    )
    made = family.make()

    assert {"carve", "answers", "text", "distil", "finish", "draft"} <= set(told)
    for folder, layers in ((made.student, 3), (made.draft, 2)):
        assert folder is not None
        checkpoint = open_checkpoint(folder)
        assert isinstance(checkpoint, DerivedCheckpoint)
        assert checkpoint.facts.trained_tokens > 0
        assert "torch" in checkpoint.facts.provenance
        path = folder / "model.flash"
        pack(checkpoint, path, variant="Lite", progress=lambda done, total: None)
        assert open_packed(path)[1].num_layers == layers
        assert np.isfinite(Sequence(native_provider(path, cached_tokens=64)).feed(WINDOWS[0])).all()
