"""The finish in the engine's number formats, on toy models: `make parity`. Elsewhere it is skipped."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed (extra `train`)", allow_module_level=True)

import torch
from tiny_gguf import write_gguf

from flash_runtime.kernels.layout import LinearFormat
from flash_runtime.model.cache import file_sha256
from flash_runtime.model.cache import place as put
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.derived import Carving, Derivation
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.opened import open_packed
from flash_runtime.model.pack import pack
from flash_runtime.model.reference import PackedWeights, ReferenceProvider
from flash_runtime.model.sequence import Sequence
from flash_runtime.model.shipped import BASE, DIFFERENCE
from flash_runtime.training.carve import CarvedLayer
from flash_runtime.training.carving import carve_layers
from flash_runtime.training.distil import place
from flash_runtime.training.finish import finish
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.loop import Pace
from flash_runtime.training.network import Decoder
from flash_runtime.training.rounded import RoundedDecoder
from flash_runtime.training.ship import write_carved
from flash_runtime.training.teacher import KEPT, Lessons
from flash_runtime.training.weights import carved_of, decoder_of, model_of, shape_of

LAYOUT = ExpertLayout(shared_width=64, experts=6, expert_width=16, top_k=2)
WINDOWS = np.random.default_rng(1).integers(0, 256, size=(16, 16), dtype=np.int32)
FORMATS = (LinearFormat.INT8, LinearFormat.INT4)
BOUND = 1e-4
"""Of the largest logit: what float32 sums in another order may leave."""

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": True}))


def carved(teacher: Checkpoint) -> dict[int, CarvedLayer]:
    return carve_layers(teacher, list(WINDOWS), LAYOUT, dense_layers=(0,))


def learner(teacher: Checkpoint, layers: dict[int, CarvedLayer]) -> Decoder:
    shape = replace(shape_of(teacher), sparse=LAYOUT, dense_layers=(0,))
    decoder = decoder_of(teacher, shape, range(shape.layers))
    place(decoder, layers)
    return decoder


def shipped(folder: Path, teacher: Checkpoint, layers: dict[int, CarvedLayer]) -> Checkpoint:
    """The carved model as a folder, which is what gets packed."""
    folder.mkdir()
    put(teacher.path, folder / BASE)
    facts = Derivation(
        format=1,
        kind="carved",
        name="toy",
        base="Tiny",
        base_sha256=file_sha256(teacher.path),
        carving=Carving(**vars(LAYOUT), dense_layers=(0,)),
        trained_tokens=0,
    )
    write_carved(folder / DIFFERENCE, facts, teacher, layers)
    return open_checkpoint(folder)


def lessons(teacher: Checkpoint) -> Lessons:
    decoder = model_of(teacher)
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


@pytest.mark.parametrize(("variant", "format"), [("Lite", LinearFormat.INT8), ("Nano", LinearFormat.INT4)])
def test_the_rounded_decoder_computes_what_the_engines_reference_does(
    teacher: Checkpoint, tmp_path: Path, variant: str, format: LinearFormat
) -> None:
    checkpoint = shipped(tmp_path / "toy", teacher, carved(teacher))
    pack(checkpoint, tmp_path / "toy.flash", variant=variant, progress=lambda done, total: None)
    packed, plan = open_packed(tmp_path / "toy.flash")
    provider = ReferenceProvider(plan, PackedWeights(packed, plan), num_blocks=1, block_size=64)
    expected = Sequence(provider).feed(WINDOWS[0])
    decoder = model_of(checkpoint)
    with torch.no_grad():
        token_ids = torch.from_numpy(WINDOWS[:1]).long()
        exact = (decoder(token_ids).final[0] @ decoder.embedding.T).numpy()
        rounded = RoundedDecoder(decoder).at(format)
        found = (rounded(token_ids).final[0] @ rounded.embedding.T).numpy()

    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= BOUND * largest
    assert np.abs(exact - expected).max() > 20 * BOUND * largest


@pytest.mark.parametrize("format", FORMATS)
def test_gradients_pass_the_rounding(teacher: Checkpoint, format: LinearFormat) -> None:
    decoder = learner(teacher, carved(teacher))
    rounded = RoundedDecoder(decoder)

    rounded.at(format)(torch.from_numpy(WINDOWS[:2]).long()).final.square().sum().backward()

    trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    assert len(trained) == 4
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)


def finished(teacher: Checkpoint, folder: Path, *, steps: int, stop_at: int | None = None) -> Decoder:
    decoder = learner(teacher, carved(teacher))
    finish(
        decoder,
        [(lessons(teacher), 1.0)],
        Pace(steps, 1e-3),
        folder,
        formats=FORMATS,
        batch=4,
        seed=1,
        tell=lambda entry: None,
        made_for={"teacher": "tiny"},
        stop_at=stop_at,
    )
    return decoder


def test_the_finish_brings_the_rounded_student_nearer_to_its_teacher(teacher: Checkpoint, tmp_path: Path) -> None:
    finished(teacher, tmp_path / "run", steps=60)

    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for format in FORMATS:
        found = [entry[f"logits {format.value}"] for entry in entries if f"logits {format.value}" in entry]
        assert len(found) == 30
        assert np.mean(found[-8:]) < 0.95 * np.mean(found[:4])


def test_a_resumed_finish_equals_an_uninterrupted_one(teacher: Checkpoint, tmp_path: Path) -> None:
    straight = finished(teacher, tmp_path / "straight", steps=9).state_dict()

    finished(teacher, tmp_path / "resumed", steps=9, stop_at=4)
    resumed = finished(teacher, tmp_path / "resumed", steps=9).state_dict()

    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_finish_changes_what_distilling_trains_and_nothing_else(teacher: Checkpoint, tmp_path: Path) -> None:
    before = learner(teacher, carved(teacher)).state_dict()

    after = finished(teacher, tmp_path / "run", steps=3).state_dict()

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"layers.{layer}.mlp.{part}.weight" for layer in (1, 2) for part in ("down_proj", "router")}
    layers = carved_of(finished(teacher, tmp_path / "run", steps=3), carved(teacher))
    assert np.array_equal(layers[1].down, after["layers.1.mlp.down_proj.weight"].numpy())


def test_a_checkpoint_that_is_damaged_or_of_another_run_is_refused(teacher: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finished(teacher, folder, steps=4, stop_at=2)
    decoder = learner(teacher, carved(teacher))

    def go_on(teacher_digest: str) -> None:
        finish(
            decoder,
            [(lessons(teacher), 1.0)],
            Pace(4, 1e-3),
            folder,
            formats=FORMATS,
            batch=4,
            seed=1,
            tell=lambda entry: None,
            made_for={"teacher": teacher_digest},
        )

    with pytest.raises(CheckpointError, match="belongs to another run: teacher was tiny, now it is other; delete"):
        go_on("other")
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="not a readable checkpoint of this stage"):
        go_on("tiny")
